"""A training script as users write it, up to its first step: LeNet on one batch of 64 images.

`torchrun --standalone --nproc-per-node N -m benchmarks.peers.one_step FILE` writes to FILE the moment after the first
step, by the monotonic clock, which all processes of a machine share. The batch is random numbers in the shape of
digits: a real script would have to load its data first.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from .lenet import LeNet

GLOBAL_BATCH_SIZE = 64


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
