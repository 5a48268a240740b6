"""A real redis-server: it is private, there is one per home, and kill -9 loses nothing that was queued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

from dljobs.errors import DljobsError
from dljobs.service.embedded_redis import SOCKET_PATH_LIMIT, EmbeddedRedis
from dljobs.service.process_mark import ProcessMark
from tests.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    yield server
    server.stop()


def kill(server: EmbeddedRedis) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), 10, "the server is gone")


def commands_files(server: EmbeddedRedis) -> list[Path]:
    """Where the commands are kept: one file, or since Redis 7 those of a folder."""
    return [*server.folder.glob("appendonly.aof"), *server.folder.glob("appendonlydir/*.incr.aof")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_private_and_safe_by_its_settings(server: EmbeddedRedis) -> None:
    assert server.start()
    assert server.is_running()
    assert server.answers()
    assert mode(server.folder) == 0o700
    assert mode(server.config_path) == mode(server.folder / "password") == mode(server.log_path) == 0o600
    assert mode(server.socket_path) == 0o600

    password = (server.folder / "password").read_text().strip()
    assert len(password) >= 32
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert password not in server.log_path.read_text()
    with server.client() as client:
        assert client.info("server")["tcp_port"] == 0
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_without_the_password_it_says_nothing(server: EmbeddedRedis) -> None:
    import redis

    server.start()
    with redis.Redis.from_url(f"unix://{server.socket_path}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_celery_speaks_to_it_and_shows_no_password(server: EmbeddedRedis) -> None:
    server.start()
    with kombu.Connection(server.broker_url) as connection:
        queue = connection.SimpleQueue("doorbells")
        queue.put({"job": 1})
        assert queue.get(timeout=5).payload == {"job": 1}
        queue.close()
        assert "***" not in server.broker_url
        assert (server.folder / "password").read_text().strip() not in connection.as_uri() + repr(connection)


def test_kill_9_loses_no_message(server: EmbeddedRedis) -> None:
    server.start()
    first_pid = server.pid
    with server.client() as client:
        for number in range(50):
            client.lpush("queue", number)
        wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5, "nothing waits for the disk")
    kill(server)
    assert (server.folder / "server.json").exists()  # a stale mark
    assert server.socket_path.exists()  # a stale socket

    assert server.start()
    assert server.pid != first_pid
    with server.client() as client:
        assert [int(item) for item in client.lrange("queue", 0, -1)] == list(reversed(range(50)))


def test_it_survives_its_starter_and_is_found_by_others(tmp_path: Path, server: EmbeddedRedis) -> None:
    code = "import sys; from pathlib import Path; from dljobs.service.embedded_redis import EmbeddedRedis as E;"
    code += "print(E(Path(sys.argv[1])).start())"
    started = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert started.stdout.strip() == "True"
    assert server.answers()
    assert not server.start()
    assert server.stop() == "stopped"
    assert not server.is_running()
    assert not server.socket_path.exists()
    assert server.stop() == "gone"


def test_many_starters_make_one_server(tmp_path: Path, server: EmbeddedRedis) -> None:
    code = "import sys; from pathlib import Path; from dljobs.service.embedded_redis import EmbeddedRedis as E;"
    code += "s = E(Path(sys.argv[1])); print(s.start(), s.pid)"
    starters = [
        subprocess.Popen([sys.executable, "-P", "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [starter.communicate(timeout=60)[0].split() for starter in starters]
    assert sorted(first for first, _ in said) == ["False", "False", "True"]
    assert {pid for _, pid in said} == {str(server.pid)}


def test_a_server_whose_starter_died_before_writing_its_mark_is_adopted(server: EmbeddedRedis) -> None:
    server.start()
    pid = server.pid
    record = server.folder / "server.json"
    record.unlink()
    assert server.pid is None
    assert not EmbeddedRedis(server.folder.parent).start()
    assert server.pid == pid


def test_a_recycled_pid_is_never_killed(server: EmbeddedRedis) -> None:
    server.start()
    kill(server)
    killed_at = time.monotonic()
    wait_until(lambda: time.monotonic() > killed_at + 0.02, 1, "a tick of the kernel's clock, which dates processes")
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = server.folder / "server.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": bystander.pid}))
        assert not server.is_running()
        assert server.stop() == "gone"
        assert server.start()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_that_does_not_answer_is_replaced(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dljobs.service.embedded_redis.SILENCE_TIMEOUT_S", 0.05)
    server.start()
    first = ProcessMark.of(server.pid or 0)
    assert first is not None
    server.socket_path.unlink()  # as a cleaner of old files would
    assert server.start()
    assert not first.is_alive()
    assert server.answers()


def test_the_queue_of_another_password_is_not_taken_over(server: EmbeddedRedis) -> None:
    server.start()
    record = server.folder / "server.json"
    kept = record.read_text(), (server.folder / "password").read_text()
    record.unlink()
    (server.folder / "password").write_text("another\n")
    with pytest.raises(DljobsError, match="does not take the password"):
        server.start()
    record.write_text(kept[0])
    (server.folder / "password").write_text(kept[1])


def test_a_copy_of_a_home_is_another_home(tmp_path: Path) -> None:
    original, copy = EmbeddedRedis(tmp_path / "a"), EmbeddedRedis(tmp_path / "b")
    original.start()
    try:
        copy.folder.mkdir(parents=True)
        for name in ("server.json", "password"):
            shutil.copy(original.folder / name, copy.folder)
        assert not copy.is_running()
        assert copy.stop() == "gone"
        assert original.answers()
    finally:
        original.stop()


def test_a_home_too_deep_for_a_socket(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 25)
    server = EmbeddedRedis(home)
    assert len(str(home)) > SOCKET_PATH_LIMIT - 20
    try:
        server.start()
        assert home not in server.socket_path.parents
        assert mode(server.socket_path.parent) == 0o700
        assert server.answers()
        # Another process, with another TMPDIR, looks for the server where it is.
        code = "import sys; from pathlib import Path; from dljobs.service.embedded_redis import EmbeddedRedis as E;"
        code += "assert E(Path(sys.argv[1])).answers()"
        other = os.environ | {"TMPDIR": str(tmp_path)}
        subprocess.run([sys.executable, "-P", "-c", code, home], env=other, check=True)
    finally:
        server.stop()
        shutil.rmtree(server.socket_path.parent, ignore_errors=True)


def test_a_cut_file_still_loads(server: EmbeddedRedis) -> None:
    server.start()
    with server.client() as client:
        client.rpush("queue", *range(50))
        client.rpush("queue", "x" * 1000)
    server.stop()
    [path] = commands_files(server)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 500)
    server.start()
    with server.client() as client:
        assert client.llen("queue") == 50


def test_a_damaged_file_is_reported_in_the_servers_words(server: EmbeddedRedis) -> None:
    server.folder.mkdir(mode=0o700)
    server.start()
    server.stop()
    for path in commands_files(server):
        path.write_bytes(b"this is no Redis protocol\r\n" * 10)
    with pytest.raises(DljobsError, match="Bad file format") as caught:
        server.start()
    assert "appendonly" in caught.value.hint
    assert not server.is_running()
