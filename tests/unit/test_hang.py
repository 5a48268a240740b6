"""When a run is taken to hang: the limit follows its own steps, and time spent away counts for nobody."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from dljobs.workers import hang
from dljobs.workers.channel import Event
from dljobs.workers.hang import HangWatch, dump_stacks
from tests.waiting import wait_until

FLOOR_S = 10.0


class Clock:
    """Moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hang, "time", made)
    return made


def event(type_: str, rank: int = 0) -> Event:
    return {"type": type_, "rank": rank}


def pass_by(clock: Clock, watch: HangWatch, seconds: float) -> str:
    """Look once a second for so long."""
    why = ""
    for _ in range(int(seconds)):
        clock.now += 1
        why = watch.overdue() or why
    return why


def test_a_run_in_training_hangs_after_the_floor_and_before_it_after_much_longer(clock: Clock) -> None:
    watch = HangWatch(FLOOR_S)
    assert not pass_by(clock, watch, 100)
    assert pass_by(clock, watch, 21) == "no first step for 121 s, and the limit is 120 s"
    watch.hear(event("first_step"))
    assert not pass_by(clock, watch, 10)
    assert pass_by(clock, watch, 1) == "no step for 11 s, and the limit is 10 s"


def test_the_limit_adapts_to_the_slowest_of_the_last_steps(clock: Clock) -> None:
    watch = HangWatch(FLOOR_S)
    watch.hear(event("first_step"))
    for _ in range(3):
        assert not pass_by(clock, watch, 9)
        watch.hear(event("progress"))
    assert watch.limit_s == 90
    assert not pass_by(clock, watch, 90)
    assert pass_by(clock, watch, 1)
    for _ in range(hang.RECENT + 1):
        clock.now += 0.5
        watch.hear(event("progress"))
    assert watch.limit_s == FLOOR_S, "a slow beginning is forgotten"


def test_only_rank_0s_signs_of_life_count(clock: Clock) -> None:
    watch = HangWatch(FLOOR_S)
    watch.hear(event("first_step"))
    for _ in range(12):
        clock.now += 1
        watch.hear(event("started", rank=1))
        watch.hear(event("artifact"))
        watch.overdue()
    assert watch.overdue()


def test_time_in_which_the_worker_itself_was_stopped_does_not_count(clock: Clock) -> None:
    watch = HangWatch(FLOOR_S)
    watch.hear(event("first_step"))
    watch.overdue()
    clock.now += 1000
    assert not watch.overdue()
    assert not pass_by(clock, watch, 9)
    assert pass_by(clock, watch, 2)


def test_what_nobody_listened_to_was_no_silence(clock: Clock) -> None:
    watch = HangWatch(FLOOR_S)
    watch.hear(event("first_step"))
    assert not pass_by(clock, watch, 9)
    watch.excuse()
    assert not pass_by(clock, watch, 10)
    assert pass_by(clock, watch, 1)


HANGING = """
import faulthandler, signal, sys, threading
faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
def stuck_here():
    print("ready", file=sys.stderr, flush=True)
    threading.Event().wait()
stuck_here()
"""


def test_stacks_tell_where_a_process_stands_and_a_stopped_one_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "their_code.py").write_text(HANGING)
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    ranks = [
        psutil.Popen([sys.executable, tmp_path / "their_code.py"], stderr=os.open(log, os.O_WRONLY | os.O_CREAT))
        for log in logs
    ]
    try:
        wait_until(lambda: all("ready" in log.read_text() for log in logs), 20, "the processes")
        ranks[1].suspend()
        assert dump_stacks([rank.pid for rank in ranks], logs) == {0: "stuck_here (their_code.py:6)"}
        assert "most recent call first" in logs[0].read_text()
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
