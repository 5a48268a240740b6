"""Ranks that add up in memory they share: the same bits on all of them, and no waiting for one that is gone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from dljobs.workers import shared_sum
from dljobs.workers.shared_sum import SharedSum

DEADLINE_S = 30.0


def _gather_over(parent: Connection) -> Callable[[str], list[str]]:
    def gather(text: str) -> list[str]:
        parent.send(text)
        texts: list[str] = parent.recv()
        return texts

    return gather


def _main(rank: int, world_size: int, parent: Connection, what: Callable[[int, SharedSum], Any]) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    shared = SharedSum.open(rank, world_size, _gather_over(parent))
    parent.send(None if shared is None else what(rank, shared))


def on_ranks(world_size: int, what: Callable[[int, SharedSum], Any]) -> list[Any]:
    """What each rank gives; None for one that cannot share memory, EOFError for one that ends without a word."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(world_size)]
    ranks = [
        context.Process(target=_main, args=(rank, world_size, theirs, what)) for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        for _ in range(2):
            texts = [_receive(ours) for ours, _ in pipes]
            for ours, _ in pipes:
                ours.send(texts)
        return [_receive(ours) for ours, _ in pipes]
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _receive(ours: Connection) -> Any:
    assert ours.poll(DEADLINE_S), "a rank says nothing"
    try:
        return ours.recv()
    except EOFError as error:
        return error


def numbers(rank: int, num: int) -> torch.Tensor:
    return torch.randn(num, generator=torch.Generator().manual_seed(rank))


# A slot holds 1,048,576 of these: a scalar, one slot, and three of them.
SIZES = (1, 1000, 1 << 20, (2 << 20) + 5)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_sum_has_the_same_bits_on_all_ranks(world_size: int) -> None:
    def add_up(rank: int, shared: SharedSum) -> list[bytes]:
        found = []
        for size in SIZES * 3:
            tensor = numbers(rank, size)
            shared.sum(tensor)
            found.append(tensor.numpy().tobytes())
        return found

    expected = []
    for size in SIZES * 3:
        total = numbers(0, size) + numbers(1, size)
        for rank in range(2, world_size):
            total += numbers(rank, size)
        expected.append(total.numpy().tobytes())
    assert on_ranks(world_size, add_up) == [expected] * world_size


def test_a_mean_is_of_shares_as_ddp_takes_them_and_any_type_can_be_summed() -> None:
    def add_up(rank: int, shared: SharedSum) -> list[Any]:
        mean, double, integers = numbers(rank, 10).view(2, 5), numbers(rank, 3).double(), torch.tensor([rank, 2**40])
        shared.mean(mean)
        shared.sum(double)
        shared.sum(integers)
        return [mean.tolist(), double.tolist(), integers.tolist()]

    expected = [
        (numbers(0, 10) / 2 + numbers(1, 10) / 2).view(2, 5).tolist(),
        (numbers(0, 3).double() + numbers(1, 3).double()).tolist(),
        [1, 2**41],
    ]
    assert on_ranks(2, add_up) == [expected] * 2


def test_a_rank_that_ends_is_not_waited_for() -> None:
    def end_or_wait(rank: int, shared: SharedSum) -> str:
        shared.sum(torch.zeros(1))
        if rank == 1:
            os._exit(3)
        try:
            shared.sum(torch.zeros(1))
        except ConnectionError as error:
            return str(error)
        return "went on alone"

    told, nothing = on_ranks(2, end_or_wait)
    assert told == "connection was closed: another rank has ended"
    assert isinstance(nothing, EOFError)


def test_where_one_rank_cannot_share_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_on_rank_0(pid: int) -> int:
        if os.environ["RANK"] == "1":
            raise OSError("not implemented here")
        return pidfd_open(pid)

    pidfd_open = os.pidfd_open
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", open_on_rank_0)
        assert on_ranks(2, lambda *_: "shared") == [None, None]
    monkeypatch.setattr(shared_sum, "_make", lambda _: -1)
    assert on_ranks(2, lambda *_: "shared") == [None, None]
    assert SharedSum.open(0, shared_sum.MOST_RANKS + 1, lambda _: []) is None
