"""Placing: which strategy, how many devices and how many nodes a user may ask for together.

It knows the request alone, not what the cluster has: that is the scheduler's business.
"""

from __future__ import annotations

import math
from typing import get_args

from dljobs.errors import UnknownName, UsageError

from .bounds import check_range
from .sizes import MAX_DEVICES, Size
from .spec import Strategy

STRATEGIES = ("auto", *get_args(Strategy))


def resolve_placing(strategy: str, size: Size, batch_size: int) -> Strategy:
    """The strategy for so many devices, if the global batch can be shared out among them.

    Among a number that was asked for, equally; among what a range happens to give, with one sample more for some.

    Raises:
        UsageError: these cannot go together; the message says what could.
    """
    resolved = _resolve_strategy(strategy, size)
    if resolved == "ddp" and size.is_fixed:
        _check_divisible(batch_size, size.num_devices)
    elif resolved == "ddp" and size.num_devices > batch_size:
        raise UsageError(
            f"batch size {batch_size} is global and has no sample for each of {size.num_devices} ranks",
            f"nearest: --gpus {Size(batch_size, min(size.min_devices, batch_size))}",
        )
    return resolved


def check_nodes(strategy: str, size: Size, num_nodes: int, *, may_spread: bool) -> None:
    """Whether so many devices can be on so many nodes.

    Raises:
        UsageError: they cannot; the message says what could be.
    """
    check_range("nodes", num_nodes, 1, MAX_DEVICES)
    if num_nodes > 1 and may_spread:
        raise UsageError("--nodes says how many there are to be, --spread leaves it open", "give one of them")
    if strategy == "dp" and (num_nodes > 1 or may_spread):
        words = "strategy dp is one process, and a process has devices of its own node only"
        raise UsageError(words, "use --strategy ddp, or leave out --nodes and --spread")
    num_devices = size.num_devices
    if (num_nodes > 1 or may_spread) and not (size.is_fixed and size.share_percent == 100):
        words = f"--gpus {size} is of one node: equal parts on several are of a number of devices that is known"
        raise UsageError(words, f"use --gpus {num_devices}, or leave out --nodes and --spread")
    if num_devices % num_nodes:
        below, above = num_devices // num_nodes * num_nodes, math.ceil(num_devices / num_nodes) * num_nodes
        raise UsageError(
            f"{num_devices} device{'s' if num_devices > 1 else ''} cannot be shared out equally to {num_nodes} nodes",
            f"the nearest number that can is --gpus {f'{below} or {above}' if below else above}",
        )


def _resolve_strategy(strategy: str, size: Size) -> Strategy:
    num_devices = size.num_devices
    if strategy not in STRATEGIES:
        raise UnknownName("strategy", strategy, STRATEGIES)
    check_range("gpus", num_devices, 1, MAX_DEVICES)
    if size.share_percent < 100 and strategy not in ("auto", "single"):
        words = f"{size} of a device is for one process: strategy {strategy} wants whole devices"
        raise UsageError(words, "leave --strategy out, or use --gpus 1")
    if strategy == "auto":
        return "single" if num_devices == 1 else "ddp"
    if strategy == "single" and num_devices > 1:
        raise UsageError(f"strategy single trains on one device, not {num_devices}", "use --strategy ddp, or --gpus 1")
    return strategy  # type: ignore[return-value]


def _check_divisible(batch_size: int, num_ranks: int) -> None:
    if batch_size % num_ranks == 0:
        return
    below, above = batch_size // num_ranks * num_ranks, math.ceil(batch_size / num_ranks) * num_ranks
    valid = f"{below} or {above}" if below else f"{above}"
    raise UsageError(
        f"batch size {batch_size} is global and cannot be shared out equally to {num_ranks} ranks",
        f"the nearest batch size that can is {valid}",
    )
