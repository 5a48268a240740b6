"""The job of `dljobs doctor --nodes`: how long an all-reduce takes, among all ranks and between each two of them.

It holds no model and no data. What it finds is in its result: rows of `ranks`, `latency_s` (of 1 KiB) and `bulk_s` (of
`BULK_BYTES`), the middle one of several each.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .channel import EventWriter
from .strategies import Strategy

SMALL_BYTES = 1 << 10
BULK_BYTES = 16 << 20
TIMES = 5


def run_all_reduce(strategy: Strategy, channel: EventWriter) -> None:
    """Measure, on all ranks; rank 0 reports."""
    ranks = range(strategy.world_size)
    rows: list[dict[str, Any]] = []
    everybody = [tuple(ranks)] if len(ranks) > 2 else []
    for members in [*everybody, *itertools.combinations(ranks, 2)]:
        group = dist.new_group(list(members))  # by all ranks in the same order, also by those that are not in it
        if strategy.rank in members:
            measured = _measure(strategy, group)
            print(f"all-reduce among ranks {members}: {measured['latency_s'] * 1e3:.2f} ms", flush=True)
            rows.append({"ranks": list(members), **measured})
        if strategy.rank == 0:
            channel.write("alive")
    # Rank 0 is not in all of them, and each lowest rank tells what it saw.
    told = strategy.gather(json.dumps([row for row in rows if row["ranks"][0] == strategy.rank]))
    if strategy.rank == 0:
        found = [row for text in told for row in json.loads(text)]
        channel.write("finished", result={"bulk_bytes": BULK_BYTES, "all_reduces": found})


def _measure(strategy: Strategy, group: Any) -> dict[str, float]:
    small, bulk = (torch.ones(size // 4, device=strategy.device) for size in (SMALL_BYTES, BULK_BYTES))
    for tensor in (small, bulk):
        _timed(tensor, group)  # the first makes the connections
    return {
        name: statistics.median(_timed(tensor, group) for _ in range(TIMES))
        for name, tensor in (("latency_s", small), ("bulk_s", bulk))
    }


def _timed(tensor: Tensor, group: Any) -> float:
    begun = time.perf_counter()
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun
