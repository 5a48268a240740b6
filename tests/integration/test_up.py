"""`dljobs up` in the foreground: real processes, a real Redis, and a stand-in for the worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.errors import DljobsError
from dljobs.service import schema, up_detached
from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.process_mark import ProcessMark
from dljobs.service.up import UpOptions
from dljobs.service.up_record import UpState
from tests.up_homes import FOREGROUND, Homes
from tests.waiting import wait_until


@pytest.fixture
def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    homes = Homes(tmp_path)
    monkeypatch.setattr(up_detached, "COMMAND", homes.background_command)
    yield homes
    homes.close()


def test_up_starts_everything_and_stops_it_on_ctrl_c(make_home: Homes) -> None:
    home = make_home()
    child = home.up(UpOptions(cpu_devices=2))
    state = home.await_running()
    assert (state.worker_name, state.num_devices) == ("obedient", 4)
    assert json.loads((home.settings.home / "options.json").read_text())["cpu_devices"] == 2
    assert home.redis.answers()
    schema.open_checked(home.settings).close()

    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    assert home.num_stops() == 1
    assert not home.redis.is_running()
    assert home.record.read() == UpState()
    assert state.worker is not None
    assert not state.worker.is_alive()


def test_without_a_gpu_it_says_what_stands_in(
    make_home: Homes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_nvml").mkdir()
    (tmp_path / "no_nvml" / "pynvml.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "no_nvml"))
    home = make_home()
    home.up()
    home.await_running()
    assert "4 CPU stand-ins" in home.output
    assert json.loads((home.settings.home / "options.json").read_text()) == {
        "gpus": None,
        "cpu_devices": 4,
        "name": None,
    }


def test_a_second_up_is_refused_by_the_pid_of_the_first(make_home: Homes) -> None:
    home = make_home()
    first = home.up(UpOptions(cpu_devices=1))
    home.await_running()
    second = home.up(UpOptions(cpu_devices=1))
    assert second.wait(20) == 1
    assert f"already runs on {home.settings.home} (pid {first.pid})" in home.output
    with pytest.raises(DljobsError, match=f"pid {first.pid}"):
        up_detached.start_detached(home.settings, UpOptions())
    assert first.poll() is None
    assert home.redis.answers()


def test_the_second_signal_goes_to_the_worker_as_well(make_home: Homes) -> None:
    home = make_home()
    child = home.up(UpOptions(cpu_devices=1, name="slow"))
    home.await_running()
    child.terminate()
    wait_until(lambda: home.num_stops() == 1, 10, "the worker has heard the first")
    assert home.record.read().phase == "stopping"
    assert child.poll() is None
    child.terminate()
    assert child.wait(20) == 0
    assert home.num_stops() == 2


def test_two_signals_at_once_are_two(make_home: Homes) -> None:
    home = make_home()
    child = home.up(UpOptions(cpu_devices=1, name="slow"))
    home.await_running()
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    assert home.num_stops() == 2


def test_a_worker_that_will_not_end_is_killed(make_home: Homes) -> None:
    home = make_home(grace_s=0.2)
    shorten = "from dljobs.service import up; up.DRAIN_MARGIN_S = 0.2; "
    home.settings.home.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", FOREGROUND.replace("say =", shorten + "say ="), home.stand_in,
         UpOptions(cpu_devices=1, name="stubborn").to_json()],
        env=home.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    home.children.append(child)
    state = home.await_running()
    child.terminate()
    said, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert "did not end in time: killed" in said
    assert state.worker is not None
    assert not state.worker.is_alive()


def test_a_redis_that_dies_is_started_again(make_home: Homes) -> None:
    home = make_home()
    home.up(UpOptions(cpu_devices=1))
    home.await_running()
    before = home.redis.pid
    assert before is not None
    with home.redis.client() as client:
        client.lpush("queue", *range(50))
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: home.redis.pid not in {None, before} and home.redis.answers(), 20, "another Redis")
    with home.redis.client() as client:
        assert client.llen("queue") == 50
    assert "Redis has died" in home.output


def test_a_home_that_is_deleted_ends_it(make_home: Homes) -> None:
    home = make_home()
    child = home.up(UpOptions(cpu_devices=1))
    state = home.await_running()
    redis = ProcessMark.of(home.redis.pid or 0)
    assert redis is not None
    assert state.worker is not None
    shutil.rmtree(home.settings.home)
    assert child.wait(20) == 1
    assert not redis.is_alive()
    assert not state.worker.is_alive()
    assert not home.settings.home.exists()


def test_a_worker_that_crashes_is_started_again(make_home: Homes) -> None:
    home = make_home()
    child = home.up(UpOptions(cpu_devices=1, name="crashing"))
    wait_until(lambda: home.output.count("is ready") == 2, 20, lambda: f"ready twice; it said:\n{home.output}")
    assert "exit code 7; starting it again" in home.output
    assert child.poll() is None


@pytest.mark.parametrize(("how", "code"), [("wrong-option", 2), ("broken", 1)])
def test_a_worker_that_never_was_ready_ends_up_with_its_code(make_home: Homes, how: str, code: int) -> None:
    home = make_home()
    assert home.up(UpOptions(cpu_devices=1, name=how)).wait(20) == code
    assert not home.redis.is_running()
    assert home.record.read() == UpState()


def test_a_killed_up_takes_its_worker_along_and_the_next_one_adopts_redis(make_home: Homes) -> None:
    home = make_home()
    first = home.up(UpOptions(cpu_devices=1))
    state = home.await_running()
    assert state.worker is not None
    redis_pid = home.redis.pid
    first.kill()
    first.wait()
    wait_until(lambda: not home.record.read().worker_is_alive, 10, "the worker has ended by itself")
    assert home.redis.pid == redis_pid

    home.up(UpOptions(cpu_devices=1))
    wait_until(lambda: home.record.read().worker not in {None, state.worker}, 20, lambda: f"a new one\n{home.output}")
    home.await_running()
    assert home.redis.pid == redis_pid
    assert "Redis found running" in home.output


def test_the_next_up_waits_for_a_worker_that_still_drains(make_home: Homes) -> None:
    home = make_home()
    first = home.up(UpOptions(cpu_devices=1, name="slow"))
    worker = home.await_running().worker
    assert worker is not None
    first.kill()
    first.wait()
    wait_until(lambda: home.num_stops() == 1, 10, "the worker was asked to drain")
    home.up(UpOptions(cpu_devices=1))
    wait_until(lambda: "waiting for its worker" in home.output, 10, "the new one waits")
    worker.send(signal.SIGKILL)
    wait_until(lambda: home.record.read().worker_name == "obedient", 20, lambda: home.output)


def test_a_database_by_url_is_checked_and_left_as_it_is(make_home: Homes, tmp_path: Path) -> None:
    home = make_home(database_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert home.up(UpOptions(cpu_devices=1)).wait(20) == 1
    assert "dljobs db upgrade" in home.output or "no database" in home.output
    assert not (tmp_path / "other.db").exists()
    assert not home.redis.is_running()


def test_servers_by_url_are_used_and_none_is_started(make_home: Homes, tmp_path: Path) -> None:
    other = EmbeddedRedis(tmp_path / "elsewhere")
    other.start()
    try:
        home = make_home(redis_url=other.broker_url)
        child = home.up(UpOptions(cpu_devices=1))
        home.await_running()
        assert not (home.settings.home / "redis").exists()
        assert (other.folder / "password").read_text().strip() not in home.output
        child.terminate()
        assert child.wait(20) == 0
        assert other.answers()
    finally:
        other.stop()
