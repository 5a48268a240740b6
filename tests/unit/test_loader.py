"""Batches that are read ahead: the same ones, whoever reads them, and no waiting for a reader that is gone."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from dljobs.errors import DataError
from dljobs.models.data import Data, ItemSplit, TensorSplit
from dljobs.workers.failure import classify
from dljobs.workers.loader import Loader, ReaderLost, choose_num_readers
from dljobs.workers.sharding import Batches
from tests.small_jobs import NUM_TRAIN, events_of, tiny_data, train_losses
from tests.waiting import wait_until

from .test_trainer import cut, one_thread, result_of, train

__all__ = ["one_thread"]  # a fixture


class Noisy:
    """Tiny data with noise from every generator that an augmentation may draw from."""

    def __init__(self, broken: int = -1, deadly: int = -1) -> None:
        self.split, self.broken, self.deadly = tiny_data().train, broken, deadly

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        if index == self.broken:
            raise DataError(f"sample {index} is broken", "repair it")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = self.split.batch(torch.tensor([index]))
        return x[0] + torch.randn(1) + random.random() + float(np.random.rand()), y[0]


def epochs_of(loader: Loader, num: int = 2) -> list[tuple[Tensor, Tensor]]:
    batches = Batches(NUM_TRAIN, 16, seed=5)
    found = []
    for epoch in range(num):
        shards = batches.epoch(epoch + 1)
        found += [take(slice(0, 16)) for _, take in loader.batches(shards, epoch * batches.steps_per_epoch)]
    return found


def are_equal(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    gc.collect()  # tracebacks hold loaders
    wait_until(lambda: set(psutil.Process().children()) <= before, 10, "the end of all readers")


@pytest.mark.parametrize("num_readers", [1, 3])
def test_batches_are_the_same_with_readers_and_without(num_readers: int) -> None:
    split = ItemSplit(Noisy())
    before = torch.get_rng_state()
    alone = epochs_of(Loader(split, (5, 0), 0, pinned=False))
    assert are_equal(alone, epochs_of(Loader(split, (5, 0), num_readers, pinned=False)))
    assert not are_equal(alone, epochs_of(Loader(split, (5, 1), num_readers, pinned=False))), "another rank's draws"
    assert torch.equal(torch.get_rng_state(), before), "what the model draws is left alone"


def test_an_epoch_may_be_begun_anywhere_and_left_early() -> None:
    split = ItemSplit(Noisy())
    whole = epochs_of(Loader(split, (5, 0), 0, pinned=False), 1)
    loader = Loader(split, (5, 0), 2, pinned=False)
    next(loader.batches(Batches(NUM_TRAIN, 16, seed=5).epoch(1), 0))
    rest = [take(slice(None)) for _, take in loader.batches(Batches(NUM_TRAIN, 16, seed=5).epoch(1, 2), 2)]
    assert are_equal(rest, whole[2:])


def test_what_is_in_memory_is_not_read_ahead() -> None:
    split = tiny_data().train
    assert isinstance(split, TensorSplit)
    loader = Loader(split, (5, 0), 2, pinned=False)
    shards = list(Batches(NUM_TRAIN, 16, seed=5).epoch(1))
    with mock.patch("torch.utils.data.DataLoader.__iter__", side_effect=AssertionError):
        found = [take(slice(2, 4)) for _, take in loader.batches(shards, 0)]
    assert are_equal(found, [split.batch(shard.indices[2:4]) for shard in shards])


def test_a_reader_raises_what_the_dataset_raised() -> None:
    for num_readers in (0, 2):
        with pytest.raises(DataError, match=r"^sample 7 is broken$") as raised:
            epochs_of(Loader(ItemSplit(Noisy(broken=7)), (5, 0), num_readers, pinned=False))
        assert raised.value.hint == "repair it"


def test_a_reader_that_is_killed_is_no_hang() -> None:
    with pytest.raises(ReaderLost, match=r"a process that reads samples was lost: DataLoader worker") as raised:
        epochs_of(Loader(ItemSplit(Noisy(deadly=7)), (5, 0), 2, pinned=False))
    assert classify(raised.value) == "killed"


@pytest.mark.parametrize(
    ("asked", "num_threads", "on_gpu", "num"),
    [(-1, 1, False, 0), (-1, 4, False, 3), (-1, 64, True, 8), (5, 1, True, 5)],
)
def test_as_many_readers_as_cores_to_spare(asked: int, num_threads: int, on_gpu: bool, num: int) -> None:
    assert choose_num_readers(asked, num_threads, on_gpu=on_gpu) == num


def noisy_data(**options: Any) -> Any:
    plain = tiny_data()
    data = Data(ItemSplit(Noisy(**options)), plain.test, plain.sample_shape, plain.num_classes)
    return mock.patch("tests.small_jobs.tiny_data", lambda **_: data)


def test_a_run_learns_the_same_with_readers_and_without_and_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"model": "dropout", "micro_batch_size": 7}
    with noisy_data():
        alone = train(tmp_path / "alone", readers=0, **changes)
        assert "ahead" not in capfd.readouterr().out
        whole = train(tmp_path / "whole", readers=2, **changes)
        assert "each rank has 2 processes that read ahead" in capfd.readouterr().out
        path = cut(tmp_path, monkeypatch, 6, readers=1, **changes)
        rest = train(tmp_path / "rest", resume=path, readers=2, **changes)
    assert "continuing after step 6, exactly" in capfd.readouterr().out
    assert train_losses(whole) == train_losses(alone)
    assert train_losses(rest) == train_losses(whole)[6:]
    for folder in (whole, rest):
        assert result_of(folder)["weights_sha256"] == result_of(alone)["weights_sha256"]
    assert events_of(whole, type_="finished")
