"""A replay: train again from a checkpoint up to weights that were stored later, and compare.

What `dljobs verify` runs: the trainer's own loop on the job's own spec, which writes nothing and ends after the step of
the weights that it is held against.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dljobs.errors import UsageError

from .channel import EventWriter
from .checkpoint import read_weights
from .folder import RunRequest
from .strategies import Strategy
from .trainer import Trainer
from .weights import copy_to_host


class Replay(Trainer):
    """The replay of a run, on one rank."""

    def __init__(self, request: RunRequest, strategy: Strategy, channel: EventWriter) -> None:
        super().__init__(request, strategy, channel)
        assert request.state_dict is not None, "a job of kind verify has weights to compare with"
        self.artifacts = None
        self._reference = Path(request.state_dict)
        self._to_step = request.state_dict_step

    def _resume(self, path: Path) -> None:
        super()._resume(path)
        self._from_step = self.progress.step
        if self._from_step >= self._to_step:
            raise UsageError(f"the checkpoint is of step {self._from_step}, and the weights of step {self._to_step}")
        self.total_steps = self._to_step

    def _end_epoch(self) -> bool:
        if self.progress.step < self._to_step:
            return super()._end_epoch()
        # The weights are those; whatever the run did next is not asked for.
        self.last_epoch = 0
        return False

    def _finish(self) -> None:
        found = compare(copy_to_host(self.model.state_dict())[0], read_weights(self._reference))
        steps = {"from_step": self._from_step, "to_step": self.progress.step}
        self._say(f"replayed steps {self._from_step} to {self.progress.step}: {describe(found)}")
        self._emit("finished", result={**found, **steps, "differences": self.differences})


def compare(replayed: dict[str, Tensor], stored: dict[str, Tensor]) -> dict[str, Any]:
    """How two sets of weights differ; equal means bit by bit, NaN for NaN."""
    if replayed.keys() - stored.keys():
        raise UsageError(f"the stored weights are of another model: {sorted(replayed.keys() ^ stored.keys())[:5]}")
    different = {name: tensor for name, tensor in replayed.items() if not _is_same(tensor, stored[name])}
    largest = max((_distance(tensor, stored[name]) for name, tensor in different.items()), default=0.0)
    return {
        "is_exact": not different,
        "num_tensors": len(replayed),
        "num_different": len(different),
        "largest_difference": largest,
    }


def describe(found: dict[str, Any]) -> str:
    """The verdict in a sentence."""
    if found["is_exact"]:
        return f"all {found['num_tensors']} tensors are the same, bit by bit"
    num, of, largest = found["num_different"], found["num_tensors"], found["largest_difference"]
    return f"{num} of {of} tensors differ, by {largest:g} at most"


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max())
