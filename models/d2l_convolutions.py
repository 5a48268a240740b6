"""Convolutions, D2L 7.2: cross-correlation by hand, and a kernel that is learned from an image and its edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .catalog import model


def corr2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Two-dimensional cross-correlation, [..., h, w] with [kh, kw] to [..., h - kh + 1, w - kw + 1].

    Each output is the sum of the window under the kernel, number by number: [[0,1,2],[3,4,5],[6,7,8]] with
    [[0,1],[2,3]] gives 0·0 + 1·1 + 3·2 + 4·3 = 19 first. In the strict sense a convolution flips the kernel; deep
    learning calls this one so all the same, for a kernel that is learned may as well be learned flipped.
    """
    height, width = kernel.shape
    rows = [
        torch.stack(
            [(x[..., i : i + height, j : j + width] * kernel).sum((-2, -1)) for j in range(x.shape[-1] - width + 1)],
            dim=-1,
        )
        for i in range(x.shape[-2] - height + 1)
    ]
    return torch.stack(rows, dim=-2)


@model(
    "corr2d",
    summary="a convolution of one kernel and a bias, its cross-correlation computed by hand",
    source="D2L 7.2.1 and 7.2.2, The Cross-Correlation Operation, Convolutional Layers",
    num_parameters=3,
    data="step-edge",
    loss="sse",
    metric="loss",
    goal="min",
    epochs=10,
    batch_size=4,
    optimizer="sgd",
    lr=2e-3,
    expected="a kernel within 0.1 of (1, -1), a bias within 0.1 of 0",
    reaches="test.loss<0.5",
    truth={"weight": [[1.0, -1.0]], "bias": [0.0]},
)
class Conv2D(nn.Module):
    """[n, 1, h, w] to [n, 1, h - kernel_height + 1, w - kernel_width + 1], with loops: to be read, not to be fast.

    Args:
        kernel_height: rows of the kernel
        kernel_width: its columns
    """

    def __init__(self, kernel_height: int = 1, kernel_width: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(kernel_height, kernel_width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return corr2d(x, self.weight) + self.bias


@model(
    "conv-edge",
    summary="a 1×2 kernel learned from one image and its edges",
    source="D2L 7.2.4, Learning a Kernel",
    num_parameters=2,
    data="step-edge",
    loss="sse",
    metric="loss",
    goal="min",
    epochs=2,
    batch_size=4,
    optimizer="sgd",
    lr=7.5e-3,
    print_every=2,
    expected="a kernel within 0.1 of (1, -1), the edge detector that made the data",
    reaches="test.loss<0.5",
    truth={"weight": [[[[1.0, -1.0]]]]},
)
class ConvEdge(nn.Conv2d):
    """[n, 1, 6, 8] to [n, 1, 6, 7] by a kernel of two numbers.

    Nobody has to design an edge detector: shown an image and where its edges are, gradient descent finds (1, -1), a
    pixel less its right neighbour, in twenty steps.
    """

    def __init__(self) -> None:
        super().__init__(1, 1, kernel_size=(1, 2), bias=False)
