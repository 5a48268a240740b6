"""The progress of a run: where it stands in its data, and what it has summed up on the way; part of each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


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
