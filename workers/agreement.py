"""What the ranks agree on between two steps: the losses so far, whether to stop or to checkpoint, when to agree next.

Reading a loss waits for the device, and a collective costs a round trip, so this is done about four times a second and
not at each step. Everything goes through one all-reduce: each rank adds its share of the losses, rank 0 alone adds the
decisions, so that all ranks decide the same after the same step. It does not act on any of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .channel import Control, read_control
from .strategies import Strategy

INTERVAL_S = 0.25
_MAX_GROWTH = 4  # so that one quick step does not put off the next agreement for long


@dataclass(frozen=True)
class Agreed:
    """The same on all ranks."""

    losses: list[tuple[float, int]]  # of each step since the last agreement: sum and number of samples
    stop: bool
    wants_checkpoint: bool
    steps_per_s: float  # since the last agreement; rank 0's clock


class Agreement:
    """Collects the losses of one rank, and meets the other ranks at agreed steps."""

    def __init__(
        self,
        strategy: Strategy,
        control_json: Path,
        checkpoint_every_s: float,
        is_writing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_writing`: whether a checkpoint is still on its way to the disk; the next one waits for it."""
        self._strategy = strategy
        self._control_json = control_json
        self._checkpoint_every_s = checkpoint_every_s
        self._is_writing = is_writing
        self._sums: list[Tensor] = []
        self._nums: list[int] = []
        self._interval = 1
        self._control = Control()
        self.answers = 0.0  # the last request for a checkpoint that one was taken for
        self.checkpoint_saved()
        self.restart_clock()

    @property
    def reason(self) -> str:
        """Why to stop, or nothing; known to rank 0 only."""
        return self._control.stop

    def record(self, loss_sum: Tensor, num_global: int) -> None:
        """Keep the loss of a step, a scalar that stays on its device: this rank's sum over its samples."""
        self._sums.append(loss_sum)
        self._nums.append(num_global)

    def is_due(self) -> bool:
        """Whether the last recorded step is one after which all ranks meet."""
        return len(self._sums) >= self._interval

    def owe_checkpoint(self) -> None:
        """One is due now: it is taken as soon as none is being written."""
        self._is_owed = True

    def checkpoint_saved(self) -> None:
        """Whatever asked for a checkpoint has it; the time to the next periodic one begins now."""
        self._is_owed = False
        self.answers = self._control.checkpoint
        self._checkpoint_at = time.monotonic() + self._checkpoint_every_s

    def restart_clock(self) -> None:
        """Leave what was done since the last agreement (an evaluation) out of the speed."""
        self._since = time.monotonic()

    def must_stop(self) -> bool:
        """Whether somebody asks for the end; to be called by all ranks at the same point, between two steps."""
        return self.ask(lambda: bool(self._look().stop))

    def ask(self, question: Callable[[], bool]) -> bool:
        """Rank 0's answer, on all ranks."""
        answer = torch.zeros(1)
        if self._strategy.rank == 0:
            answer[0] = question()
        return bool(self._strategy.all_sum(answer).item())

    def is_writing(self) -> bool:
        """Whether rank 0 is still writing a checkpoint; to be called by all ranks."""
        return self.ask(self._is_writing)

    def reach(self) -> Agreed:
        """Meet the other ranks; to be called by all of them after the same step."""
        num_steps = len(self._sums)
        losses = torch.stack(self._sums).double().cpu() if self._sums else torch.zeros(0, dtype=torch.float64)
        agreed = self._strategy.all_sum(torch.cat([losses, self._decisions(num_steps)])).tolist()
        interval, stop, wants_checkpoint, steps_per_s = agreed[num_steps:]
        nums, self._sums, self._nums = self._nums, [], []
        self._interval = int(interval)
        self.restart_clock()
        return Agreed(
            losses=list(zip(agreed[:num_steps], nums, strict=True)),
            stop=bool(stop),
            wants_checkpoint=bool(wants_checkpoint),
            steps_per_s=steps_per_s,
        )

    def _decisions(self, num_steps: int) -> Tensor:
        decisions = torch.zeros(4, dtype=torch.float64)
        if self._strategy.rank == 0:
            elapsed_s = max(time.monotonic() - self._since, 1e-9)
            control = self._look()
            wanted = int(num_steps * INTERVAL_S / elapsed_s)
            decisions[0] = max(1, min(wanted, _MAX_GROWTH * self._interval)) if num_steps else self._interval
            decisions[1] = bool(control.stop)
            decisions[2] = control.stop != "cancel" if control.stop else self._is_due(control)
            decisions[3] = num_steps / elapsed_s
        return decisions

    def _is_due(self, control: Control) -> bool:
        is_wanted = self._is_owed or control.checkpoint > self.answers or time.monotonic() >= self._checkpoint_at
        return is_wanted and not self._is_writing()

    def _look(self) -> Control:
        """Read what is asked for; a stop is never taken back."""
        asked = read_control(self._control_json)
        self._control = Control(self._control.stop or asked.stop, max(self._control.checkpoint, asked.checkpoint))
        return self._control
