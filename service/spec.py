"""The frozen description of a job: everything a rank must know to repeat it, and nothing about where it runs.

It owns the JSON that `jobs.spec` holds and its version. It is resolved once, at submit (see `submission.py`): a default
that changes later in the zoo changes no job that waits. Standard library only, because ranks read it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dljobs.errors import DljobsError
from dljobs.models.references import locate

SPEC_VERSION = 1

Strategy = Literal["single", "dp", "ddp"]
OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Training:
    """How to train. Each field may be set by a zoo entry's declaration, by its own flag, or by `--set`."""

    epochs: int = 1
    batch_size: int = 64  # global: shared out among the ranks
    micro_batch_size: int = 0  # samples that a rank takes at once, adding up gradients; 0: its whole part, if it fits
    readers: int = -1  # processes of a rank that read ahead what is not in memory; -1: as its cores allow
    lr: float = 0.01
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    seed: int = 0
    max_steps: int = 0  # 0: no cap
    clip_norm: float = 0.0  # 0: off
    precision: Precision = "fp32"  # what forward passes compute in; weights are float32 always
    compile: bool = False  # torch.compile, where its gradients are the plain model's
    channels_last: bool = False  # how the weights of convolutions lie in memory
    init: str = "default"  # initial weights: `normal:0.01`, `linear=zeros;conv=kaiming_normal` (models/init_rule.py)
    until: str = ""  # ends the training early: `loss<1e-3`, `test.accuracy>0.98` (models/threshold.py)
    print_every: int = 0  # steps between lines with the running loss; 0: only a line for each epoch
    log_every: int = 0  # steps between recorded points; 0: as often as keeps a run under about 2,000 points
    keep_every: int = 0  # epochs between state_dicts that are kept; 0: every epoch while they are small
    keep_checkpoints_every: int = 0  # epochs between checkpoints that are kept beside the last two and the best one
    checkpoint_every_s: float = 600.0
    checkpoint_every_steps: int = 0  # 0: only by time and by epoch
    checkpoint_every_epochs: int = 1  # 0: only by time and by step; the last epoch always leaves one


@dataclass(frozen=True)
class JobSpec:
    """One job, fully resolved."""

    model: str
    data: str
    loss: str
    metric: str
    goal: Literal["max", "min"]
    strategy: Strategy = "single"
    num_devices: int = 1
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    kind: Literal["train", "evaluate", "verify", "all-reduce"] = "train"
    artifact_id: int | None = None  # the weights that "evaluate" loads, and "verify" compares with
    model_source: str | None = None  # digest of the frozen files that a model of one's own is in
    data_source: str | None = None
    version: int = SPEC_VERSION

    @property
    def source_digests(self) -> list[str]:
        """The frozen files that the job needs, each once."""
        return sorted({digest for digest in (self.model_source, self.data_source) if digest is not None})

    def model_at(self, sources: Path) -> str:
        """What `find_model` is given where the frozen files are in the folder `sources`."""
        return locate(self.model, self.model_source, sources)

    def data_at(self, sources: Path) -> str:
        """What `find_dataset` is given; as `model_at`."""
        return locate(self.data, self.data_source, sources)

    def to_json(self) -> str:
        """One line of JSON with sorted keys, so that equal specs are equal text."""
        # vars(), because asdict copies, which is most of what a set of thousands costs.
        return json.dumps({**vars(self), "training": vars(self.training)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Read a stored spec.

        Raises:
            DljobsError: it was written by a dljobs with another version of the spec, or is none.
        """
        try:
            return cls._from_fields(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DljobsError(f"this job's spec cannot be read: {error}") from None

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> JobSpec:
        if fields.get("version") != SPEC_VERSION:
            raise DljobsError(
                f"this job's spec has version {fields.get('version')!r}, and this dljobs reads version {SPEC_VERSION}",
                hint="run the same dljobs release on clients and workers",
            )
        return cls(**{**fields, "training": Training(**fields["training"])})
