"""The record of a run's training losses: added up, judged, and told of, a block of steps at a time.

It takes in what the ranks have agreed on, the same on all of them, and is heard from rank 0 alone. It does not know
when they agree.
"""

from __future__ import annotations

import math

from dljobs.errors import DljobsError
from dljobs.service.spec import Training

from .channel import EventWriter
from .narration import running_loss_line, say
from .progress import Progress
from .stop_rule import StopRule

_MAX_POINTS = 2000  # recorded for the training loss of a run whose spec says nothing else


class NonFiniteLoss(DljobsError):
    """The training has diverged."""

    def __init__(self, what: str, training: Training) -> None:
        clip = "" if training.clip_norm else ", or --set clip_norm=1"
        super().__init__(
            what,
            hint=f"try a smaller --lr (it is {training.lr:g}){clip}; or the data hold values that are not finite",
        )


class LossRecord:
    """Of one run, on one rank."""

    def __init__(
        self, training: Training, until: StopRule, total_steps: int, *, averaged: bool, channel: EventWriter | None
    ) -> None:
        """`averaged`: whether the loss of a batch is a mean or a sum; `channel`: where it is told of, if it is."""
        self._training = training
        self._until = until
        self._averaged = averaged
        self._channel = channel
        self._every = training.log_every or math.ceil(total_steps / _MAX_POINTS)

    def add(self, losses: list[tuple[float, int]], progress: Progress, total_steps: int) -> str:
        """Take in the last steps, all of one epoch: of each the sum of its losses and its number of samples.

        Returns:
            Why the training ends after them, by the stop rule, or nothing.

        Raises:
            NonFiniteLoss: before anything of them is saved.
        """
        points: dict[int, float] = {}
        ends = ""
        try:
            for step, (total, num) in enumerate(losses, start=progress.step - len(losses) + 1):
                value = total / num if self._averaged else total
                if not math.isfinite(value):
                    raise NonFiniteLoss(f"loss is {value} at step {step} (epoch {progress.epoch})", self._training)
                progress.loss_sum += total
                progress.num_samples += num
                self._tell_running_loss(progress, step, value)
                ends = ends or self._until.judge_loss(progress, step, value)
                if step % self._every == 0 or step in {1, total_steps} or ends:
                    points[step] = value
        finally:
            if points and self._channel is not None:
                self._channel.write("losses", epoch=progress.epoch, steps=list(points), values=list(points.values()))
        return ends

    def _tell_running_loss(self, progress: Progress, step: int, loss: float) -> None:
        every = self._training.print_every
        if not every:
            return
        progress.printed_sum += loss
        step_in_epoch = progress.step_in_epoch - (progress.step - step)
        if step_in_epoch % every == 0:
            if self._channel is not None:
                say(running_loss_line(progress.epoch, step_in_epoch, progress.printed_sum / every))
            progress.printed_sum = 0.0
