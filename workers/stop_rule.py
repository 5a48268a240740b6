"""The stop rule of a run (`until`): whether it is met, judged where the number of ranks and their speed play no part.

A rule on the training loss is judged after every 20th step of the run, on the mean over these 20 batches; a rule on a
test metric after each epoch. So the same job always stops after the same step. It does not know how a run is ended.
"""

from __future__ import annotations

from dljobs.models.catalog import TASK_METRICS, Task
from dljobs.models.threshold import parse_threshold

from .progress import Progress

WINDOW = 20  # batches


class StopRule:
    """Judges the losses and results of a run."""

    def __init__(self, until: str, task: Task) -> None:
        self.text = until
        self._threshold = parse_threshold(until, TASK_METRICS[task]) if until else None
        self._is_on_losses = self._threshold is not None and not self._threshold.is_test

    def is_due(self, step: int) -> bool:
        """Whether the losses must be looked at after this step, before any other is taken."""
        return self._is_on_losses and step % WINDOW == 0

    def judge_loss(self, progress: Progress, step: int, loss: float) -> str:
        """Take in the loss of a step; why the training ends here, or nothing."""
        if not self._is_on_losses:
            return ""
        progress.window_sum += loss
        if step % WINDOW:
            return ""
        mean, progress.window_sum = progress.window_sum / WINDOW, 0.0
        return self._judge(step, mean)

    def judge_results(self, step: int, results: dict[str, float]) -> str:
        """Look at what an evaluation found; why the training ends here, or nothing."""
        if self._threshold is None or not self._threshold.is_test:
            return ""
        value = results.get(self._threshold.metric)
        return "" if value is None else self._judge(step, value)  # an r2 of values that do not vary is none

    def _judge(self, step: int, value: float) -> str:
        assert self._threshold is not None
        return f"stopped at step {step}: {self._threshold.describe(value)}" if self._threshold.is_met(value) else ""
