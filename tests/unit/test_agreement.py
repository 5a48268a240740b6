from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dljobs.workers import agreement
from dljobs.workers.agreement import Agreement
from dljobs.workers.channel import Control, write_control
from dljobs.workers.strategies import Strategy


class Clock:
    """The time module, in the hands of a test."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Meeting(Strategy):
    """The second of two ranks; what the first one says is given."""

    said: Tensor

    def all_sum(self, values: Tensor) -> Tensor:
        return values + self.said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(agreement, "time", clock)
    return clock


def alone(path: Path, checkpoint_every_s: float = 600.0) -> Agreement:
    return Agreement(Strategy(0, 1, 0, torch.device("cpu")), path, checkpoint_every_s)


def steps(agreement: Agreement, clock: Clock, step_s: float) -> int:
    """Take steps until an agreement is due; how many it took."""
    num = 0
    while not agreement.is_due():
        clock.now += step_s
        agreement.record(torch.tensor(2.0), 4)
        num += 1
    return num


def test_agreements_come_about_four_times_a_second(tmp_path: Path, clock: Clock) -> None:
    ours = alone(tmp_path / "control.json")
    taken = []
    for _ in range(6):
        taken.append(steps(ours, clock, step_s=0.002))
        agreed = ours.reach()
        assert agreed.losses == [(2.0, 4)] * taken[-1]
    assert taken == [1, 4, 16, 64, 125, 125]
    assert agreed.steps_per_s == pytest.approx(500)
    clock.now += 30  # an evaluation
    ours.restart_clock()
    steps(ours, clock, step_s=1.0)
    ours.reach()
    assert steps(ours, clock, step_s=1.0) == 1


def test_a_stop_wants_a_checkpoint_unless_the_job_is_cancelled(tmp_path: Path, clock: Clock) -> None:
    for reason, wants_checkpoint in (("drain", True), ("preempted", True), ("time-limit", True), ("cancel", False)):
        ours = alone(tmp_path / "control.json", checkpoint_every_s=0.0)
        (tmp_path / "control.json").unlink(missing_ok=True)
        assert not ours.reach().stop
        write_control(tmp_path / "control.json", Control(stop=reason))
        agreed = ours.reach()
        assert (agreed.stop, agreed.wants_checkpoint, ours.reason) == (True, wants_checkpoint, reason)


def test_checkpoints_come_due_by_time(tmp_path: Path, clock: Clock) -> None:
    ours = alone(tmp_path / "control.json", checkpoint_every_s=10.0)
    clock.now += 9
    assert not ours.reach().wants_checkpoint
    clock.now += 2
    assert ours.reach().wants_checkpoint
    ours.checkpoint_saved()
    assert not ours.reach().wants_checkpoint


def test_other_ranks_follow_rank_0_and_read_no_file(tmp_path: Path, clock: Clock) -> None:
    write_control(tmp_path / "control.json", Control(stop="cancel"))
    strategy = Meeting(1, 2, 1, torch.device("cpu"))
    ours = Agreement(strategy, tmp_path / "control.json", 0.0)
    ours.record(torch.tensor(2.0), 8)
    object.__setattr__(strategy, "said", torch.tensor([6.0, 3, 0, 1, 50], dtype=torch.float64))
    agreed = ours.reach()
    assert (agreed.losses, agreed.stop, agreed.wants_checkpoint) == ([(8.0, 8)], False, True)
    assert steps(ours, clock, 0.1) == 3
