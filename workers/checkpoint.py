"""Checkpoints: everything that continues a run exactly, as one safetensors file with JSON in its metadata.

A checkpoint holds the weights, the optimizer's state, the random state of every rank, the position in the data, the
running sums of the epoch and the best result so far, and the digest of the spec. The learning rate is a function of the
step and needs no place; weights are float32 whatever a run computes in.
It knows the model and the optimizer only by their state_dicts; when one is due is the trainer's affair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dljobs.errors import CorruptArtifact, UsageError
from dljobs.service.spec import JobSpec, Training

from .plan import Plan
from .progress import Progress
from .weights import HostCopy, read_metadata, read_tensors, with_aliases, write_tensors

_FORMAT = 2
_KEY = "checkpoint"
_MODEL = "model/"
_OPTIMIZER = "optimizer/"
# Of a spec, what decides neither which numbers are computed nor when the training ends. How many ranks there are has a
# field of its own.
_WITHOUT_EFFECT = {"version", "kind", "artifact_id", "strategy", "num_devices"}
_REPORTING = {
    "readers",
    "print_every",
    "log_every",
    "keep_every",
    "keep_checkpoints_every",
    "checkpoint_every_s",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
}


OptimizerCopy = tuple[dict[str, Tensor], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU: a copy that no later step changes."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    optimizer: str
    scalars: dict[str, dict[str, Any]]  # what an optimizer keeps for a parameter beside tensors
    progress: Progress
    random_states: list[str]  # of every rank, as `random_state.capture` gives them
    spec_sha256: str
    plan: Plan
    num_threads: int
    world_size: int
    data: str = "{}"  # the record of the data, as JSON
    scaler: dict[str, Any] = field(default_factory=dict)  # of a float16 run's gradients

    @classmethod
    def of(
        cls,
        weights: HostCopy,
        optimizer: OptimizerCopy,
        progress: Progress,
        random_states: list[str],
        spec: JobSpec,
        plan: Plan,
        data: str = "{}",
        scaler: dict[str, Any] | None = None,
    ) -> Checkpoint:
        """The checkpoint of a run between two steps, of copies that were taken there."""
        named, aliases = weights
        state, scalars = optimizer
        return cls(
            tensors={_MODEL + name: tensor for name, tensor in named.items()} | state,
            aliases=aliases,
            optimizer=spec.training.optimizer,
            scalars=scalars,
            progress=dataclasses.replace(progress),
            random_states=random_states,
            spec_sha256=spec_digest(spec),
            plan=plan,
            num_threads=torch.get_num_threads(),
            world_size=len(random_states),
            data=data,
            scaler=scaler or {},
        )

    def write(self, path: Path) -> None:
        """Write it whole or not at all. Raises StorageFull."""
        described = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}
        described |= {"progress": dataclasses.asdict(self.progress), "plan": dataclasses.asdict(self.plan)}
        write_tensors(path, self.tensors, {_KEY: json.dumps({"format": _FORMAT, **described})})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CorruptArtifact: it is no whole checkpoint.
        """
        tensors, metadata = read_tensors(path)
        described = _parse(path, metadata)
        try:
            described |= {"progress": Progress(**described["progress"]), "plan": Plan(**described["plan"])}
            return cls(tensors=tensors, **described)
        except (KeyError, TypeError) as error:
            raise CorruptArtifact(f"{path.name} is no checkpoint of dljobs: {error!r}") from error

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load the weights (strictly) and the optimizer's state, each on the device where it belongs.

        The optimizer's options are those of the job at hand: they follow from its spec.

        Raises:
            UsageError: the checkpoint is of another model.
        """
        named = {name.removeprefix(_MODEL): tensor for name, tensor in self.tensors.items() if name.startswith(_MODEL)}
        try:
            model.load_state_dict(with_aliases(named, self.aliases), strict=True)
            optimizer.load_state_dict(self._optimizer_state(optimizer))
            _lay_out_as_parameters(optimizer)
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
        groups = optimizer.state_dict()["param_groups"]
        if _kind_of(optimizer) != self.optimizer:
            return {"state": {}, "param_groups": groups}  # what another optimizer remembers means nothing to this one
        state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in self.scalars.items()}
        for name, tensor in self.tensors.items():
            if name.startswith(_OPTIMIZER):
                index, key = name.removeprefix(_OPTIMIZER).split("/", 1)
                state.setdefault(int(index), {})[key] = tensor
        return {"state": state, "param_groups": groups}


def copy_optimizer(optimizer: torch.optim.Optimizer, *, final: bool = False) -> OptimizerCopy:
    """What an optimizer keeps for its parameters: tensors, by their names in a checkpoint, and what is beside them.

    Args:
        final: no step follows, so that what is on the host needs no copy.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}/{key}"] = value.detach().to("cpu", copy=not final).contiguous()
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, scalars


def read_weights(path: Path) -> dict[str, Tensor]:
    """The model's weights in a checkpoint, or in the file of a state_dict.

    Raises:
        CorruptArtifact: it is no whole safetensors file.
    """
    tensors, metadata = read_tensors(path)
    if _KEY not in metadata:
        return tensors
    return {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}


def read_spec_digest(path: Path) -> str:
    """Of which spec the checkpoint is, without loading its tensors.

    Raises:
        CorruptArtifact: it is no whole checkpoint.
    """
    return str(_parse(path, read_metadata(path)).get("spec_sha256"))


def spec_digest(spec: JobSpec) -> str:
    """sha256 of what a spec trains: equal for jobs that compute the same, whatever they report and keep of it.

    A field that has its default is left out, so that one that a later release adds changes no digest.
    """
    fields = _chosen(spec) | {"training": _chosen(spec.training)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _chosen(part: JobSpec | Training) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(part)}
    values = {name: getattr(part, name) for name in defaults if name not in _WITHOUT_EFFECT | _REPORTING}
    return {name: value for name, value in values.items() if name != "training" and value != defaults[name]}


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Files hold rows one after the other; a fused kernel walks a parameter and its state as they lie in memory."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _kind_of(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__.lower()


def _parse(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads(metadata[_KEY])
        written_as = described.pop("format")
    except (KeyError, AttributeError, ValueError) as error:
        raise CorruptArtifact(f"{path.name} is no checkpoint of dljobs: {error!r}") from error
    if written_as != _FORMAT:
        raise CorruptArtifact(f"{path.name} was written by another release of dljobs", "submit the job anew")
    return described
