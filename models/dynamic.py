"""A network whose depth is drawn anew in each forward, with one layer shared by all depths."""

from __future__ import annotations

import random

from torch import Tensor, nn

from .catalog import model


@model(
    "dynamic",
    summary="1000-100-10 whose middle layer is used 0 to 3 times, drawn in each forward",
    source="PyTorch, Learning PyTorch with Examples (Johnson): Control Flow + Weight Sharing",
    num_parameters=111_210,
    data="random-pairs",
    loss="sse",
    metric="loss",
    goal="min",
    epochs=5,
    batch_size=64,
    optimizer="sgd",
    lr=1e-4,
    momentum=0.9,
    print_every=100,
    expected="a sum of squared errors below 10 with the middle layer used once (it begins near 650)",
    reaches="test.loss<10",
)
class DynamicNet(nn.Module):
    """[n, in_features] to [n, num_values] through 1 to 4 hidden layers: the middle one is the same each time.

    Autograd records what was computed in this very forward, so ordinary Python (a loop, a condition) decides on the
    graph, and a layer that is used several times simply gets the sum of its gradients.

    Under DDP each rank draws its own depth. A rank that drew 0 has no gradient for the middle layer, for which DDP
    would wait in vain: `find_unused_parameters` makes it look after each forward which ones take part. In evaluation
    nothing is drawn, so that the same weights always give the same result.

    Args:
        in_features: numbers in; fitted to the data unless set
        hidden: units in each hidden layer
        num_values: numbers out; fitted to the data unless set
        depth: how often the middle layer is used in evaluation
    """

    find_unused_parameters = True  # read by the strategy that wraps it

    def __init__(self, in_features: int = 1000, hidden: int = 100, num_values: int = 10, depth: int = 1) -> None:
        super().__init__()
        self.input_linear = nn.Linear(in_features, hidden)
        self.middle_linear = nn.Linear(hidden, hidden)
        self.output_linear = nn.Linear(hidden, num_values)
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        h_relu = self.input_linear(x).clamp(min=0)
        for _ in range(random.randint(0, 3) if self.training else self.depth):  # noqa: S311 (no secret)
            h_relu = self.middle_linear(h_relu).clamp(min=0)
        y_pred: Tensor = self.output_linear(h_relu)
        return y_pred
