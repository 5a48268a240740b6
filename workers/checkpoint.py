"""Checkpoints: everything that continues a run exactly, as one safetensors file with JSON in its metadata.

A checkpoint holds the weights, the optimizer's state, the random state of every rank, the position in the data, the
running sums of the epoch and the best result so far. The learning rate is a function of the step and needs no place.
It knows the model and the optimizer only by their state_dicts; when one is due is the trainer's affair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dljobs.errors import CorruptArtifact, DljobsError, UsageError
from dljobs.service.spec import JobSpec

from .weights import copy_to_host, read_tensors, with_aliases, write_tensors

_FORMAT = 1
_KEY = "checkpoint"
_MODEL = "model/"
_OPTIMIZER = "optimizer/"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # steps done since the run's beginning
    epoch: int = 1  # the epoch in work, counted from 1
    step_in_epoch: int = 0  # steps done in it
    loss_sum: float = 0.0  # over the samples of this epoch that were trained on
    num_samples: int = 0
    best_epoch: int = 0  # 0: none yet
    best_value: float = 0.0
    printed_sum: float = 0.0  # of the batches' losses since the last running-loss line
    window_sum: float = 0.0  # of the batches' losses in the stop rule's unfinished window
    ended: str = ""  # why the training is over before its last epoch

    @property
    def worked_epoch(self) -> int:
        """The epoch that the last step was in."""
        return self.epoch if self.step_in_epoch else max(1, self.epoch - 1)

    def next_epoch(self) -> None:
        """Stand before the first step of the epoch that follows."""
        self.epoch += 1
        self.step_in_epoch, self.loss_sum, self.num_samples, self.printed_sum = 0, 0.0, 0, 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU: a copy that no later step changes."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    param_groups: list[dict[str, Any]]
    scalars: dict[str, dict[str, Any]]  # what an optimizer keeps for a parameter beside tensors
    progress: Progress
    random_states: list[str]  # of every rank, as `random_state.capture` gives them
    spec_sha256: str
    batch_size: int
    num_threads: int
    world_size: int

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        random_states: list[str],
        spec: JobSpec,
    ) -> Checkpoint:
        """Copy the state of a run between two steps."""
        weights, aliases = copy_to_host(model.state_dict())
        state = optimizer.state_dict()
        tensors = {_MODEL + name: tensor for name, tensor in weights.items()}
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{index}/{key}"] = value.detach().to("cpu", copy=True).contiguous()
                else:
                    scalars.setdefault(str(index), {})[key] = value
        return cls(
            tensors=tensors,
            aliases=aliases,
            param_groups=[{**group} for group in state["param_groups"]],
            scalars=scalars,
            progress=dataclasses.replace(progress),
            random_states=random_states,
            spec_sha256=spec_digest(spec),
            batch_size=spec.training.batch_size,
            num_threads=torch.get_num_threads(),
            world_size=len(random_states),
        )

    def write(self, path: Path) -> None:
        """Write it whole or not at all. Raises StorageFull."""
        described = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}
        described["progress"] = dataclasses.asdict(self.progress)
        write_tensors(path, self.tensors, {_KEY: json.dumps({"format": _FORMAT, **described})})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CorruptArtifact: it is no whole checkpoint.
        """
        tensors, metadata = read_tensors(path)
        try:
            described = json.loads(metadata[_KEY])
            if described.pop("format") != _FORMAT:
                raise DljobsError(f"{path.name} was written by another release of dljobs", "submit the job anew")
            return cls(tensors=tensors, **{**described, "progress": Progress(**described["progress"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"{path.name} is no checkpoint of dljobs: {error!r}") from error

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the weights (strictly) and the optimizer's state, each on the device where it belongs.

        Raises:
            UsageError: the checkpoint is of another model or optimizer.
        """
        named = {name.removeprefix(_MODEL): tensor for name, tensor in self.tensors.items() if name.startswith(_MODEL)}
        try:
            model.load_state_dict(with_aliases(named, self.aliases), strict=True)
            optimizer.load_state_dict(self._optimizer_state(optimizer))
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(f"the checkpoint does not fit this job: {error}") from error

    def differences(self, spec: JobSpec, world_size: int) -> list[str]:
        """Why a run that continues here now will not be equal, bit by bit, to one that never stopped."""
        num_threads = torch.get_num_threads()
        checks = (
            (self.world_size != world_size, f"{self.world_size} ranks then, {world_size} now"),
            (self.num_threads != num_threads, f"{self.num_threads} threads then, {num_threads} now"),
            (self.spec_sha256 != spec_digest(spec), "another spec"),
        )
        return [what for differs, what in checks if differs]

    def _optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in self.scalars.items()}
        for name, tensor in self.tensors.items():
            if name.startswith(_OPTIMIZER):
                index, key = name.removeprefix(_OPTIMIZER).split("/", 1)
                state.setdefault(int(index), {})[key] = tensor
        # JSON has no tuples (such as Adam's betas): each option takes the type it has in the new optimizer.
        current = optimizer.state_dict()["param_groups"]
        groups = [
            {key: tuple(value) if isinstance(was.get(key), tuple) else value for key, value in saved.items()}
            for saved, was in zip(self.param_groups, current, strict=True)
        ]
        return {"state": state, "param_groups": groups}


def spec_digest(spec: JobSpec) -> str:
    """sha256 of a spec: whether a checkpoint is of the very same job."""
    return hashlib.sha256(spec.to_json().encode()).hexdigest()
