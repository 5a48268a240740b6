"""One network of two layers, written as each section of "Learning PyTorch with Examples" writes it.

From the numbers by hand to a compiled graph: the same function of the same initial weights, and so the same losses. The
classes stand in the order of the tutorial, each shows one step of it and leans on the one before.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .catalog import model
from .compiled import compile_whole


@model(
    "two-layer",
    summary="1000-100-10 with ReLU fitted to 64 random pairs, in eight ways from NumPy to a compiled graph",
    source="PyTorch, Learning PyTorch with Examples (Johnson)",
    num_parameters=101_000,
    data="random-pairs",
    loss="sse",
    metric="loss",
    goal="min",
    epochs=5,
    batch_size=64,
    optimizer="sgd",
    lr=1e-6,
    print_every=100,
    variants={"implementation=optim": {"optimizer": "adam", "lr": 1e-4}},
    expected="a sum of squared errors below 1e-3 after 500 steps, in each implementation",
    reaches="test.loss<1e-3",
)
def two_layer(
    implementation: Literal["numpy", "tensor", "autograd", "function", "nn", "optim", "module", "compiled"] = "nn",
    in_features: int = 1000,
    hidden: int = 100,
    num_values: int = 10,
) -> nn.Module:
    """[n, in_features] to [n, num_values]: relu(x·W1)·W2, without biases, W1 and W2 standard normal numbers.

    All but `optim` take the same steps of plain SGD from the same weights: their losses agree step by step up to the
    order of float32 sums: to 1e-4 of the loss for 120 steps, while it falls from 3e7 to some tens, and to 2% at the
    end, where the 1e-4 that is left of it is rounding. `optim` is trained with Adam, from the smaller weights that
    nn.Linear draws for itself.

    Args:
        implementation: numpy, tensor: gradients by hand; autograd; function: own ReLU; nn, optim, module; compiled
        in_features: numbers in; fitted to the data unless set
        hidden: units between the layers
        num_values: numbers out; fitted to the data unless set
    """
    if implementation == "optim":
        return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_values))
    return IMPLEMENTATIONS[implementation](torch.randn(in_features, hidden), torch.randn(hidden, num_values))


class NumpyNet(nn.Module):
    """Section "Warm-up: numpy": forward and backward as array arithmetic; NumPy knows neither gradients nor GPUs."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.w1 = nn.Parameter(w1)
        self.w2 = nn.Parameter(w2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _InNumpy.apply(x, self.w1, self.w2)
        return out


class _InNumpy(torch.autograd.Function):
    """The arithmetic of NumpyNet. The trainer starts the backward pass, as of any model; its lines are by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        x_, w1_, w2_ = _arrays(x, w1, w2)
        h = x_.dot(w1_)
        h_relu = np.maximum(h, 0)
        y_pred = h_relu.dot(w2_)
        ctx.device, ctx.arrays = x.device, (x_, w2_.copy(), h, h_relu)  # a copy: the step changes w2 in its place
        return torch.from_numpy(y_pred).to(x.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor, Tensor]:
        x, w2, h, h_relu = ctx.arrays
        (grad_y_pred,) = _arrays(grad_output)  # of the sum of squares it is 2·(y_pred - y)
        grad_w2 = h_relu.T.dot(grad_y_pred)
        grad_h = grad_y_pred.dot(w2.T)
        grad_h[h < 0] = 0
        grad_w1 = x.T.dot(grad_h)
        return None, torch.from_numpy(grad_w1).to(ctx.device), torch.from_numpy(grad_w2).to(ctx.device)


class TensorNet(NumpyNet):
    """Section "PyTorch: Tensors": the same lines, but on tensors, which may lie on a GPU; still no autograd."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _InTensors.apply(x, self.w1, self.w2)
        return out


class _InTensors(torch.autograd.Function):
    """The arithmetic of TensorNet: manual forward, manual backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        h = x.mm(w1)
        h_relu = h.clamp(min=0)
        ctx.save_for_backward(x, w2, h, h_relu)
        return h_relu.mm(w2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_pred: Tensor) -> tuple[None, Tensor, Tensor]:
        x, w2, h, h_relu = ctx.saved_tensors
        grad_w2 = h_relu.t().mm(grad_y_pred)
        grad_h = grad_y_pred.mm(w2.t())
        grad_h[h < 0] = 0
        grad_w1 = x.t().mm(grad_h)
        return None, grad_w1, grad_w2


class AutogradNet(NumpyNet):
    """Section "PyTorch: Tensors and autograd": only the forward is written; the graph of it gives the gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mm(self.w1).clamp(min=0).mm(self.w2)


class MyReLU(torch.autograd.Function):
    """Section "Defining new autograd functions": what ReLU does, and how a gradient passes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_input: Tensor = grad_output.clone()
        grad_input[x < 0] = 0
        return grad_input


class FunctionNet(NumpyNet):
    """The same section: a network that uses MyReLU beside autograd's own operations."""

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = MyReLU.apply(x.mm(self.w1))
        return hidden.mm(self.w2)


class SequentialNet(nn.Sequential):
    """Section "PyTorch: nn": layers that hold their weights; nn.Linear keeps them transposed, [out, in]."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__(_linear(w1), nn.ReLU(), _linear(w2))


class TwoLayerNet(nn.Module):
    """Section "PyTorch: Custom nn Modules": a module of one's own, of modules; `forward` may be any code."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.linear1 = _linear(w1)
        self.linear2 = _linear(w2)

    def forward(self, x: Tensor) -> Tensor:
        h_relu = self.linear1(x).clamp(min=0)
        y_pred: Tensor = self.linear2(h_relu)
        return y_pred


class CompiledNet(TwoLayerNet):
    """Section "TensorFlow: Static Graphs", as it is done today: the same forward, traced and compiled as one graph.

    The tutorial built its graph by hand and then fed it; now the first forward is traced, which takes seconds, and
    whatever a graph cannot hold is an error (`fullgraph`), not a silent gap. Evaluation runs the forward as it is
    written: it meets other batch sizes, and compiling for them would take longer than it could save.
    """

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__(w1, w2)
        self._run = compile_whole(super().forward)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x) if self.training else super().forward(x)


IMPLEMENTATIONS: dict[str, type[nn.Module]] = {
    "numpy": NumpyNet,
    "tensor": TensorNet,
    "autograd": AutogradNet,
    "function": FunctionNet,
    "nn": SequentialNet,
    "module": TwoLayerNet,
    "compiled": CompiledNet,
}


def _linear(weight: Tensor) -> nn.Linear:
    """A layer with the weights of x.mm(weight), and no bias."""
    inputs, outputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight.t())
    return layer


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().cpu().numpy() for tensor in tensors]
