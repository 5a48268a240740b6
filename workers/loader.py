"""The loader: the samples of a rank's batches, read ahead by processes of its own where they are not in memory.

What a dataset draws for a batch (augmentation) comes of a random state that follows from (seed, step, rank) alone: so a
batch is the same whoever reads it, and wherever a run was cut. It knows neither the model nor the optimizer.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dljobs.errors import DljobsError
from dljobs.models.data import Split, is_read_by_item

from .folder import RunRequest
from .narration import say
from .random_state import capture, restore, seed_all
from .sharding import Shard
from .strategies import Strategy

# Gives the samples of a part of a shard: x[n, …] and y[n, …].
Take = Callable[[slice], tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor]

AUTO = -1
_MOST_READERS = 8  # that are chosen without being asked for
_PR_SET_PDEATHSIG = 1
_SALT = 0x10AD  # apart from the seeds of weights and of dropout


class ReaderLost(DljobsError):
    """A process that reads ahead was killed."""


class Loader:
    """The batches of one rank, epoch by epoch."""

    def __init__(self, split: Split, seeds: tuple[int, int], num_readers: int, *, pinned: bool) -> None:
        """
        Args:
            seeds: of the run, and the rank.
            num_readers: processes; 0: this one reads, when a batch is wanted.
            pinned: batches that were read ahead lie in memory that a GPU can copy from by itself.
        """
        self._split = split
        self._by_step = _ByStep(split, seeds)
        self._order = _Order()
        self._readers: DataLoader[Batch] | None = None
        if num_readers:
            self._readers = _make_readers(self._by_step, self._order, num_readers, pinned=pinned)

    @classmethod
    def of(cls, split: Split, request: RunRequest, strategy: Strategy) -> Loader:
        """The loader of a run's rank, with as many readers as were asked for, or as its share of the host allows."""
        training, on_gpu = request.spec.training, strategy.device.type == "cuda"
        num = choose_num_readers(training.readers, request.num_threads, on_gpu=on_gpu) if is_read_by_item(split) else 0
        if num and strategy.rank == 0:
            say(f"each rank has {num} process{'es' if num > 1 else ''} that read{'s' if num == 1 else ''} ahead")
        return cls(split, (training.seed, strategy.rank), num, pinned=on_gpu)

    def batches(self, shards: Iterable[Shard], first_step: int) -> Iterator[tuple[Shard, Take]]:
        """The shards of consecutive steps, each with its samples.

        Raises:
            ReaderLost: a process that reads was killed.
        """
        if not is_read_by_item(self._split):
            for shard in shards:
                yield shard, partial(_take_held, self._split, shard.indices)
            return
        shards = list(shards)
        self._order.steps = [(step, shard.indices.tolist()) for step, shard in enumerate(shards, first_step)]
        read = map(self._by_step.__getitem__, self._order) if self._readers is None else _read_ahead(self._readers)
        for shard, (x, y) in zip(shards, read, strict=True):
            yield shard, partial(_take_loaded, x, y)


def choose_num_readers(asked: int, num_threads: int, *, on_gpu: bool) -> int:
    """How many processes read for a rank, if nobody says: as many as it has cores; on a CPU it needs one for itself."""
    return asked if asked != AUTO else min(_MOST_READERS, num_threads if on_gpu else num_threads - 1)


def _take_held(split: Split, indices: Tensor, part: slice) -> Batch:
    return split.batch(indices[part])


def _take_loaded(x: Tensor, y: Tensor, part: slice) -> Batch:
    return x[part], y[part]


class _ByStep(Dataset[Batch]):
    """Batches by (step, indices)."""

    def __init__(self, split: Split, seeds: tuple[int, int]) -> None:
        self._split, self._seeds = split, seeds

    def __getitem__(self, item: tuple[int, list[int]]) -> Batch:
        step, indices = item
        before = capture()
        seed_all(*self._seeds, step, _SALT)
        try:
            return self._split.batch(torch.tensor(indices))
        finally:
            restore(before)


class _Order(Sampler[tuple[int, list[int]]]):
    """What is to be read in the epoch that comes."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[int]]] = []

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Caught(Dataset[Any]):
    """As another one; but what it raises for users to read is handed over as it is, without the reader's traceback."""

    def __init__(self, by_step: _ByStep) -> None:
        self._by_step = by_step

    def __getitem__(self, item: Any) -> Batch | DljobsError:
        try:
            return self._by_step[item]
        except DljobsError as error:
            return error


def _make_readers(by_step: _ByStep, order: _Order, num: int, *, pinned: bool) -> DataLoader[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DataLoader(
            _Caught(by_step),
            sampler=order,
            batch_size=None,  # the dataset's items are batches
            collate_fn=_as_it_is,
            num_workers=num,
            multiprocessing_context="fork",  # of this process, which has all that a dataset imports
            worker_init_fn=_die_with_rank,
            persistent_workers=True,
            pin_memory=pinned,
            generator=torch.Generator(),  # it would draw a seed from the rank's own
        )


def _read_ahead(readers: DataLoader[Any]) -> Iterator[Batch]:
    try:
        with warnings.catch_warnings():
            # Of forks beside threads, which the readers know nothing of, and of more readers than cores.
            warnings.simplefilter("ignore")
            read = iter(readers)
        for each in read:
            if isinstance(each, DljobsError):
                raise each
            yield each
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ReaderLost(
            f"a process that reads samples was lost: {error}",
            hint="the host's memory may be too small for it: --set readers=0 reads without any",
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _die_with_rank(_number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
