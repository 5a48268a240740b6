"""`dljobs up --detach` and `dljobs down`; in the last test with the real worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import RowMapping

from dljobs.errors import DljobsError
from dljobs.service import schema, up_detached
from dljobs.service.artifacts import list_artifacts
from dljobs.service.doorbell import Doorbell
from dljobs.service.down import stop_up
from dljobs.service.jobs import get_job
from dljobs.service.logs import list_lines
from dljobs.service.offers import list_workers
from dljobs.service.process_mark import ProcessMark
from dljobs.service.runs import list_runs
from dljobs.service.states import WorkerState
from dljobs.service.submission import Request, enqueue, prepare
from dljobs.service.up import UpOptions
from tests.cluster import family_of
from tests.up_homes import Homes
from tests.waiting import wait_until

BACKGROUND_COMMAND = up_detached.COMMAND


@pytest.fixture
def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    homes = Homes(tmp_path)
    monkeypatch.setattr(up_detached, "COMMAND", homes.background_command)
    yield homes
    homes.close()


def test_detached_and_down(make_home: Homes) -> None:
    home = make_home()
    state = up_detached.start_detached(home.settings, UpOptions(cpu_devices=1))
    assert state.up_is_alive
    assert (state.phase, state.worker_name, state.num_devices) == ("running", "obedient", 4)
    assert home.settings.home.stat().st_mode & 0o777 == 0o700
    assert up_detached.log_path(home.settings.home).stat().st_mode & 0o777 == 0o600
    assert os.getsid(state.up.pid) != os.getsid(0) if state.up else False

    done = stop_up(home.settings)
    assert state.up is not None
    assert done == [f"stopped dljobs up (pid {state.up.pid}) with worker obedient and Redis"]
    assert not state.worker_is_alive
    assert not home.redis.is_running()
    assert home.num_stops() == 1
    assert stop_up(home.settings) == [f"nothing is running on {home.settings.home}"]


def test_down_now_asks_the_worker_twice(make_home: Homes) -> None:
    home = make_home()
    up_detached.start_detached(home.settings, UpOptions(cpu_devices=1, name="slow"))
    ticks: list[float] = []
    stop_up(home.settings, now=True, tick=lambda waited_s, _limit_s: ticks.append(waited_s))
    assert home.num_stops() == 2
    assert not home.record.read().up_is_alive


def test_down_removes_what_a_killed_up_left(make_home: Homes) -> None:
    home = make_home()
    state = up_detached.start_detached(home.settings, UpOptions(cpu_devices=1, name="slow"))
    assert state.up is not None
    assert state.worker is not None
    state.up.send(signal.SIGKILL)
    wait_until(lambda: home.num_stops() == 1, 10, "the kernel has asked the worker to drain")
    done = stop_up(home.settings, now=True)
    assert [line.partition(" (pid")[0] for line in done] == [
        "stopped the worker that an earlier `dljobs up` left",
        "stopped Redis",
    ]
    assert not state.worker.is_alive()


def test_down_before_anything_ran_says_so(make_home: Homes) -> None:
    home = make_home()
    assert stop_up(home.settings) == [f"nothing is running on {home.settings.home}"]
    assert not home.settings.home.exists()


def test_down_never_signals_a_recycled_pid(make_home: Homes) -> None:
    home = make_home()
    home.settings.home.mkdir()
    mine = ProcessMark.of(os.getpid())
    assert mine is not None
    stale = {"pid": os.getpid(), "born": mine.born + "0"}
    fields = {"up": stale, "worker": stale, "phase": "running", "host": "", "worker_name": "w", "num_devices": 1}
    (home.settings.home / "up.json").write_text(json.dumps(fields))
    assert stop_up(home.settings) == [f"nothing is running on {home.settings.home}"]


def test_a_detached_up_that_fails_shows_the_end_of_its_log(make_home: Homes) -> None:
    home = make_home()
    with pytest.raises(DljobsError, match="torch is missing") as caught:
        up_detached.start_detached(home.settings, UpOptions(cpu_devices=1, name="broken"))
    assert caught.value.exit_code == 1
    assert "up.log" in caught.value.hint
    with pytest.raises(DljobsError, match="no such device") as caught:
        up_detached.start_detached(home.settings, UpOptions(cpu_devices=1, name="wrong-option"))
    assert caught.value.exit_code == 2
    assert "torch is missing" not in caught.value.message


def test_a_detached_up_that_takes_long_goes_on_starting(make_home: Homes) -> None:
    home = make_home()
    with pytest.raises(DljobsError, match="still starting"):
        up_detached.start_detached(home.settings, UpOptions(cpu_devices=1, name="never-ready"), timeout_s=0.5)
    wait_until(lambda: home.record.read().up_is_alive, 20, "it has got so far as to say who it is")


def test_without_a_worker(make_home: Homes) -> None:
    home = make_home()
    state = up_detached.start_detached(home.settings, UpOptions(worker=False))
    assert (state.phase, state.worker) == ("running", None)
    assert home.redis.answers()
    assert len(stop_up(home.settings)) == 1


def test_the_real_worker_does_not_outlive_a_killed_up(make_home: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_detached, "COMMAND", BACKGROUND_COMMAND)
    home = make_home()
    state = up_detached.start_detached(home.settings, UpOptions(cpu_devices=2, name="lab-1"))
    assert (state.worker_name, state.num_devices) == ("lab-1", 2)
    database = schema.open_checked(home.settings)

    def worker_state() -> str:
        with database.read() as connection:
            [row] = list_workers(connection)
        return str(row["state"])

    assert worker_state() == WorkerState.ONLINE
    with home.redis.client() as client:
        listening = lambda: any(connection["cmd"] == "brpop" for connection in client.client_list())  # noqa: E731
        wait_until(listening, 20, "the worker listens for doorbells")
    assert state.up is not None
    assert state.worker is not None
    state.up.send(signal.SIGKILL)
    wait_until(lambda: not state.worker_is_alive, 20, "the worker has drained and ended")
    assert worker_state() == WorkerState.OFFLINE
    database.close()
    assert [line.partition(" (pid")[0] for line in stop_up(home.settings)] == ["stopped Redis"]


def test_up_after_a_power_cut_goes_on_by_itself(make_home: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on the machine dies at once, in mid-run; nothing but `up` is called afterwards."""
    monkeypatch.setattr(up_detached, "COMMAND", BACKGROUND_COMMAND)
    home = make_home(lease_s=6.0, heartbeat_s=1.0, sweep_s=1.0)
    options = UpOptions(cpu_devices=2, name="lab-1")
    state = up_detached.start_detached(home.settings, options)
    database = schema.open_checked(home.settings)
    new = prepare(Request("lenet", sets=("epochs=20", "checkpoint_every_steps=10"), num_devices=2), user="ada")
    job_id = enqueue(database, Doorbell(home.settings), new).job_id

    def job() -> RowMapping:
        with database.read() as connection:
            return get_job(connection, job_id)

    def num_checkpoints() -> int:
        with database.read() as connection:
            return len(list_artifacts(connection, job_id, kind="checkpoint"))

    wait_until(num_checkpoints, 60, "a checkpoint")
    with home.redis.client() as client:
        redis = psutil.Process(int(client.info("server")["process_id"]))
    assert state.up is not None
    cut = [*family_of(state.up.pid), redis]
    for process in cut:
        process.kill()
    _gone, alive = psutil.wait_procs(cut, timeout=10)
    assert not alive
    assert job()["state"] == "running", "nobody was left to say otherwise"
    up_detached.start_detached(home.settings, options)
    wait_until(lambda: job()["state"] not in ("queued", "starting", "running"), 90, lambda: f"the end: {dict(job())}")
    assert job()["state"] == "succeeded"
    with database.read() as connection:
        first, second = list_runs(connection, [job_id])
        said = [row["line"] for row in list_lines(connection, [second["id"]])]
    assert (first["failure_class"], second["state"]) == ("node-lost", "succeeded")
    assert any("resuming from step-" in line for line in said)
    database.close()
    stop_up(home.settings)
    assert not list((home.settings.home / "runs").iterdir()), "what the cut left"
