"""A training script as users write it, up to its first step: LeNet on one batch of 64 images.

`torchrun --standalone --nproc-per-node N one_step.py FILE` writes to FILE the moment after the first step, by the
monotonic clock, which all processes of a machine share. The batch is random numbers in the shape of digits: a real
script would have to load its data first.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

GLOBAL_BATCH_SIZE = 64


class LeNet(nn.Module):
    """The same network as in `models/lenet.py`, without dljobs around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        out: Tensor = self.fc3(functional.relu(self.fc2(x)))
        return out


def take_first_step(world_size: int) -> float:
    """Build the model, wrap it where there are several ranks, take one step; returns the moment after it."""
    torch.manual_seed(0)
    model: nn.Module = LeNet()
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.rand(GLOBAL_BATCH_SIZE // world_size, 1, 32, 32)
    y = torch.randint(10, (len(x),))
    loss = functional.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    loss.item()
    return time.monotonic()


def main(output: str) -> None:
    """One rank under torchrun."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size > 1:
        dist.init_process_group("gloo")
    at = take_first_step(world_size)
    if rank == 0:
        Path(output).write_text(repr(at))
    if world_size > 1:
        dist.barrier()
    # What follows is not measured, and gloo's teardown with the interpreter's aborts once in a while (SIGABRT,
    # "terminate called without an active exception", with and without destroy_process_group).
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
