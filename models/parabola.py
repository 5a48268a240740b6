"""The smallest network there is a point in: two hidden neurons, fitted to a parabola."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .catalog import model


@model(
    "parabola",
    summary="1-2-1 with sigmoids: seven numbers that bend into a parabola",
    source="the two-neuron network fitted to a parabola; universal approximation: Cybenko 1989",
    num_parameters=7,
    data="parabola-points",
    loss="sae",
    metric="loss",
    goal="min",
    epochs=100,
    batch_size=10,
    optimizer="sgd",
    lr=0.001,
    print_every=1000,
    expected="a sum of absolute errors below 0.2 on the ten points, in seconds (on ddp without GPUs, in minutes)",
    reaches="test.loss<0.2",
)
class Parabola(nn.Module):
    """[n, 1] to [n, 1] through two sigmoids: y = v1·σ(w1·x + b1) + v2·σ(w2·x + b2) + c.

    Each neuron is an S-shaped step; a sum of two, one rising and one falling, has a valley. There is nothing else to
    it, and it shows what training is: 100,000 small steps downhill, printed every 1,000. One device takes seconds for
    them. With DDP between processes each step waits for a message there and back, which lasts ten times as long as the
    step itself: for seven numbers, more devices are only slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 2)
        self.output = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(torch.sigmoid(self.hidden(x)))
        return out
