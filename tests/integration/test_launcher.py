"""The launcher with real ranks: how they start, how they end, and that nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dljobs.workers.channel import Control, write_control
from dljobs.workers.launcher import Launch, Launcher
from tests.small_jobs import events_of, write_small
from tests.waiting import wait_until

TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def nothing_is_left(launcher: Launcher) -> Iterator[None]:
    """Each test leaves as many processes and threads as it found."""
    processes, threads = _below_here(), threading.active_count()
    yield
    wait_until(lambda: _below_here() <= processes, 10, lambda: f"no rank left: {_below_here() - processes}")
    wait_until(lambda: threading.active_count() <= threads, 10, lambda: f"no thread left: {threading.enumerate()}")


def _below_here() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def run(launcher: Launcher, folder: Path, model: str, world_size: int) -> Launch:
    launch = launcher.launch(write_small(folder, model, world_size), world_size)
    assert launch.wait(TIMEOUT_S), "the ranks are still running"
    return launch


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_run_and_end_well(launcher: Launcher, tmp_path: Path, world_size: int) -> None:
    launch = run(launcher, tmp_path, "tiny", world_size)
    assert launch.error is None
    assert sorted((end.rank, end.exitcode, end.was_killed) for end in launch.exits) == [
        (rank, 0, False) for rank in range(world_size)
    ]
    for rank in range(world_size):
        (started,) = events_of(launch.folder, rank, "started")
        assert (started["rank"], started["pid"]) == (rank, launch.pids[rank])
        assert events_of(launch.folder, rank, "error") == []
        log = launch.folder.log(rank).read_text()
        assert f"rank {rank} of {world_size} on cpu, 1 thread" in log
        assert "imported after the fork: []" in log, "the forkserver should preload it"
    assert len(events_of(launch.folder, type_="finished")) == 1


def test_the_first_rank_to_raise_tells_where_and_why(launcher: Launcher, tmp_path: Path) -> None:
    launch = run(launcher, tmp_path, "raises", 2)
    (error,) = events_of(launch.folder, 1, "error")
    assert (error["exception"], error["message"]) == ("ValueError", "the third batch is too much")
    assert (error["failure_class"], error["secondary"]) == ("user", False)
    assert Path(error["file"]).name == "small_jobs.py"
    assert "raise ValueError" in Path(error["file"]).read_text().splitlines()[error["line"] - 1]
    assert "Traceback" in error["traceback"] and "ValueError" in launch.folder.log(1).read_text()
    assert (launch.exits[0].rank, launch.exits[0].exitcode) == (1, 1)
    for echo in events_of(launch.folder, 0, "error"):
        assert echo["secondary"] is True
        assert echo["at"] > error["at"]


def test_the_other_ranks_are_gone_soon_after(launcher: Launcher, tmp_path: Path) -> None:
    launch = run(launcher, tmp_path, "raises", 4)
    first = min(end.at for end in launch.exits)
    assert time.time() - first < 5
    assert len(launch.exits) == 4


@pytest.mark.parametrize(("model", "exitcode"), [("leaves-with-3", 3), ("is-killed", -signal.SIGKILL)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_rank_that_ends_without_a_word(
    launcher: Launcher, tmp_path: Path, model: str, exitcode: int, world_size: int
) -> None:
    launch = run(launcher, tmp_path, model, world_size)
    first = launch.exits[0]
    assert (first.rank, first.exitcode, first.was_killed) == (0, exitcode, False)
    assert events_of(launch.folder, 0, "error") == []
    assert all(error["secondary"] for rank in range(world_size) for error in events_of(launch.folder, rank, "error"))
    assert len(launch.exits) == world_size


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_that_leave_early_with_0_do_not_hang_the_agent(
    launcher: Launcher, tmp_path: Path, world_size: int
) -> None:
    launch = run(launcher, tmp_path, "leaves-with-0", world_size)
    assert launch.exits[0].exitcode == 0
    assert not events_of(launch.folder, type_="finished")


def test_kill_ends_a_deaf_rank_and_its_child(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "is-stubborn", 2), 2)
    logs = [launch.folder.log(rank) for rank in range(2)]
    wait_until(lambda: all(log.exists() and "child " in log.read_text() for log in logs), 30, "the children")
    children = [int(log.read_text().rpartition("child ")[2]) for log in logs]
    assert all(is_alive(pid) for pid in [*launch.pids, *children])
    launch.kill()
    assert launch.wait(5)
    wait_until(lambda: not any(is_alive(pid) for pid in [*launch.pids, *children]), 5, "all dead")
    assert {end.exitcode for end in launch.exits} == {-signal.SIGKILL}
    assert all(end.was_killed for end in launch.exits)


def test_kill_before_the_ranks_are_there(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "is-stubborn", 2), 2)
    launch.kill()
    assert launch.wait(10)
    assert len(launch.exits) == 2


def test_what_a_rank_started_ends_with_it(launcher: Launcher, tmp_path: Path) -> None:
    """A rank that is killed from outside does not leave its children behind."""
    launch = launcher.launch(write_small(tmp_path, "is-stubborn", 1), 1)
    log = launch.folder.log(0)
    wait_until(lambda: log.exists() and "child " in log.read_text(), 30, "the child")
    child = int(log.read_text().rpartition("child ")[2])
    os.kill(launch.pids[0], signal.SIGKILL)
    assert launch.wait(10)
    wait_until(lambda: not is_alive(child), 5, "the child's end")


def test_several_launches_at_once_do_not_mix(launcher: Launcher, tmp_path: Path) -> None:
    models = ["tiny", "leaves-with-3", "tiny", "raises"]
    launches = [
        launcher.launch(write_small(tmp_path / str(number), model, world_size=1 + number % 2), 1 + number % 2)
        for number, model in enumerate(models)
    ]
    for launch in launches:
        assert launch.wait(TIMEOUT_S)
    assert [launch.exits[0].exitcode for launch in launches] == [0, 3, 0, 1]
    assert [len(events_of(launch.folder, type_="finished")) for launch in launches] == [1, 0, 1, 0]


def test_many_short_launches_all_report_success(launcher: Launcher, tmp_path: Path) -> None:
    """Ranks of several runs that end at the same time: no exit status is read by the wrong thread."""
    launches = [launcher.launch(write_small(tmp_path / str(number), epochs=1, max_steps=1), 1) for number in range(8)]
    for launch in launches:
        assert launch.wait(TIMEOUT_S)
        assert [end.exitcode for end in launch.exits] == [0]


def test_output_of_all_kinds_is_in_the_log_at_once(launcher: Launcher, tmp_path: Path) -> None:
    launch = run(launcher, tmp_path, "writes", 1)
    lines = launch.folder.log(0).read_text().splitlines()
    assert lines[1:5] == ["forward 1", "from C", "forward 2", "from C"]


def test_a_stop_request_ends_all_ranks_well(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "is-slow", 2, epochs=1000), 2)
    wait_until(lambda: events_of(launch.folder, type_="first_step"), 30, "the first step")
    write_control(launch.folder.control_json, Control(stop="cancel"))
    assert launch.wait(10)
    assert [end.exitcode for end in launch.exits] == [0, 0]
    assert events_of(launch.folder)[-1]["type"] == "stopped"


WORKER = """
import os, sys, threading
from pathlib import Path
from dljobs.workers.folder import RunFolder
from dljobs.workers.launcher import Launcher

if __name__ == "__main__":
    os.environ["DLJOBS_REDIS_URL"] = "redis://:secret@localhost"
    launcher = Launcher(entry="tests.small_jobs:main")
    launcher.warm()
    launch = launcher.launch(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
    launch.wait()
"""


@pytest.mark.parametrize("world_size", [1, 2])
def test_kill_9_of_the_worker_takes_everything_with_it(tmp_path: Path, world_size: int) -> None:
    folder = write_small(tmp_path / "run", "is-stubborn", world_size)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-P", str(script), str(folder.path), str(world_size)]
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        logs = [folder.log(rank) for rank in range(world_size)]
        wait_until(lambda: all(log.exists() and "child " in log.read_text() for log in logs), 60, "the ranks")
        ranks = [events_of(folder, rank, "started")[0]["pid"] for rank in range(world_size)]
        forkserver = psutil.Process(ranks[0]).ppid()
        assert all("credentials: []" in log.read_text() for log in logs)
    finally:
        worker.kill()
        worker.wait()
    children = [int(log.read_text().rpartition("child ")[2]) for log in logs]
    wait_until(lambda: not any(is_alive(pid) for pid in [*ranks, *children, forkserver]), 5, "all of them gone")


def test_a_dead_forkserver_ends_its_ranks_and_the_next_launch_gets_a_new_one(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "run", "is-stubborn", 1)
    write_small(tmp_path / "next")
    script = tmp_path / "worker.py"
    script.write_text(
        WORKER
        + """
    assert launch.error and "forkserver" in launch.error, (launch.error, launch.exits)
    launch = launcher.launch(RunFolder(Path(sys.argv[3])), 1)
    assert launch.wait(60)
    assert launch.exits[0].exitcode == 0, launch.exits
    launcher.close()
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    worker = subprocess.Popen([sys.executable, "-P", script, folder.path, "1", tmp_path / "next"], env=environment)
    try:
        log = folder.log(0)
        wait_until(lambda: log.exists() and "child " in log.read_text(), 60, "the rank")
        (started,) = events_of(folder, 0, "started")
        child = int(log.read_text().rpartition("child ")[2])
        os.kill(psutil.Process(started["pid"]).ppid(), signal.SIGKILL)
        wait_until(lambda: not is_alive(started["pid"]) and not is_alive(child), 5, "the rank and its child gone")
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()


def test_whoever_waits_for_a_first_line_hears_of_it_at_once(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "is-slow", 2, epochs=1000), 2)
    log = launch.folder.log(0)
    assert not launch.wait_for_news(TIMEOUT_S)
    assert "rank " in log.read_text() or "rank " in launch.folder.log(1).read_text()
    wait_until(lambda: not launch.wait_for_news(TIMEOUT_S) and events_of(launch.folder, type_="first_step"), 30, "step")
    launch.kill()
    wait_until(lambda: launch.wait_for_news(TIMEOUT_S), 10, "the end")
