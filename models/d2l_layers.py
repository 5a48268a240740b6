"""Custom layers, D2L 6.5: one without parameters, one with its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .catalog import model


class CenteredLayer(nn.Module):
    """Takes the mean of each row away. The book takes that of the whole batch: a sample's result would then depend on
    its neighbours, and on how a batch is shared out over ranks. The mean over everything is 0 either way."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=1, keepdim=True)


@model(
    "centered-mlp",
    summary="20-128-10, and a layer without parameters that centres what comes out",
    source="D2L 6.5.1, Layers without Parameters",
    num_parameters=3_978,
    data="clusters",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=10,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    expected=">= 95% test accuracy on clusters; the outputs' mean is 0 within rounding",
    reaches="test.accuracy>=0.95",
)
class CenteredMLP(nn.Sequential):
    """[n, in_features] to [n, num_classes] logits whose mean is 0; softmax does not see the difference.

    A layer need not have weights: any function of tensors can be one. That the mean is 1e-9 and not 0 is float32's
    rounding.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set
    """

    def __init__(self, in_features: int = 20, num_classes: int = 10) -> None:
        super().__init__(nn.Linear(in_features, 128), nn.ReLU(), nn.Linear(128, num_classes), CenteredLayer())


class MyLinear(nn.Module):
    """[n, in_features] to [n, num_units]: relu(x·W + b), W and b from the standard normal distribution.

    The book computes with `self.weight.data`. The values are the same, but `.data` steps out of autograd: no gradient
    would ever reach the weights, and nothing would be learned, silently. Use the parameters themselves.
    """

    def __init__(self, in_features: int, num_units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, num_units))
        self.bias = nn.Parameter(torch.randn(num_units))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x @ self.weight + self.bias)


@model(
    "my-linear",
    summary="20-64-10 whose first layer, with its ReLU, is of its own making",
    source="D2L 6.5.2, Layers with Parameters",
    num_parameters=1_994,
    data="clusters",
    loss="cross_entropy",
    metric="accuracy",
    goal="max",
    epochs=30,
    batch_size=64,
    optimizer="adam",
    lr=0.01,
    expected=">= 95% test accuracy on clusters",
    reaches="test.accuracy>=0.95",
)
class MyLinearMLP(nn.Sequential):
    """[n, in_features] to [n, num_classes] through 64 units of `MyLinear`.

    What is wrapped in nn.Parameter belongs to the module: it is trained, moved and saved with it. The book stacks two
    of them; here the second is a plain linear layer, because logits that passed a ReLU can no longer say "less likely
    than that", and a class whose logit is 0 for all samples gets no gradient and is lost.

    Args:
        in_features: numbers in; fitted to the data unless set
        num_classes: outputs; fitted to the data unless set
    """

    def __init__(self, in_features: int = 20, num_classes: int = 10) -> None:
        super().__init__(MyLinear(in_features, 64), nn.Linear(64, num_classes))
