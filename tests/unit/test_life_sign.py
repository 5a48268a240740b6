"""What systemd and a kubelet hear of a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.workers.life_sign import LifeSign


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(5)
        yield server


def test_systemd_hears_ready_alive_and_stopping(systemd: socket.socket, tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    sign = LifeSign(tmp_path / "sign", environ)
    assert environ == {"HOME": "/"}, "ranks must not speak for the worker"
    sign.ready("worker w1")
    sign.alive()
    sign.stopping("draining 2 runs")
    heard = [systemd.recv(1000).decode() for _ in range(3)]
    assert heard == ["READY=1\nSTATUS=worker w1", "WATCHDOG=1", "STOPPING=1\nSTATUS=draining 2 runs"]


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0dljobs-test-{os.getpid()}")
        server.settimeout(5)
        LifeSign(Path("/dev/null"), {"NOTIFY_SOCKET": f"@dljobs-test-{os.getpid()}"}).alive()
        assert server.recv(100) == b"WATCHDOG=1"


def test_the_files_time_is_that_of_the_last_sign(tmp_path: Path) -> None:
    file = tmp_path / "workers" / "w1.alive"
    sign = LifeSign(file, {})
    sign.ready("")
    os.utime(file, (0, 0))
    sign.alive()
    assert file.stat().st_mtime > 0
    sign.end()
    assert not file.exists()


def test_a_full_disk_or_a_systemd_that_is_gone_stops_no_worker(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    sign = LifeSign(tmp_path / "a file" / "sign", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    sign.ready("")
    sign.alive()
