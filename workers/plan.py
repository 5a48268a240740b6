"""The plan of a run: how many steps it takes in all, and what the order of its samples follows from.

The learning rate is a function of the step and of the planned steps, so a checkpoint keeps the plan. It knows neither
models nor ranks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from dljobs.service.spec import Training

from .progress import Progress
from .sharding import Batches


@dataclass(frozen=True)
class Plan:
    """Fixed when a job begins; a job that continues another one under other settings begins with a plan of its own."""

    steps: int
    epochs: int
    num_samples: int
    batch_size: int
    seed: int

    @classmethod
    def onward(cls, training: Training, batches: Batches, progress: Progress) -> Plan:
        """What these settings leave to do from where a run stands; at its beginning, all of it."""
        per_epoch = batches.steps_per_epoch
        left = max(0, (training.epochs - progress.epoch + 1) * per_epoch - progress.step_in_epoch)
        if training.max_steps:
            left = min(left, max(0, training.max_steps - progress.step))
        epochs = progress.epoch - 1 + math.ceil((progress.step_in_epoch + left) / per_epoch)
        return cls(progress.step + left, epochs, batches.num_samples, batches.batch_size, batches.seed)

    def other_order(self, before: Plan) -> str:
        """Why its epochs are not the same batches as those of another plan; empty if they are."""
        names = ("num_samples", "batch_size", "seed")
        mine, theirs = asdict(self), asdict(before)
        return ", ".join(
            f"{name} was {theirs[name]} and is {mine[name]}" for name in names if mine[name] != theirs[name]
        )
