"""The line to Redis: what it says, and what becomes of it when the server goes away, refuses or is slow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dljobs.errors import Unreachable
from dljobs.service import redis_connection
from dljobs.service.redis_line import RedisLine, Refused
from tests.databases import settings_for


@contextmanager
def server(path: Path, *visits: bytes) -> Iterator[list[bytes]]:
    """Answers the connections one after the other, each with these bytes to all that it hears first, and hangs up."""
    heard: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        for words in visits:
            visitor, _address = listener.accept()
            with visitor:
                heard.append(visitor.recv(65536))
                visitor.sendall(words)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield heard
    finally:
        thread.join(10)
        listener.close()
        path.unlink()


def test_it_logs_in_and_pushes_in_one_go(tmp_path: Path) -> None:
    with server(tmp_path / "s", b"+OK\r\n+OK\r\n:1\r\n") as heard:
        RedisLine(str(tmp_path / "s"), ("ann", "pässword"), 2).lpush("list", "a\r\nb")
    assert heard == [
        b"*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$9\r\np\xc3\xa4ssword\r\n"
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n"
        b"*3\r\n$5\r\nLPUSH\r\n$4\r\nlist\r\n$4\r\na\r\nb\r\n"
    ]


def test_it_connects_again_when_the_server_was_away(tmp_path: Path) -> None:
    with server(tmp_path / "s", b"+OK\r\n:1\r\n", b"+OK\r\n:1\r\n") as heard:
        line = RedisLine(str(tmp_path / "s"), ("secret",))
        line.lpush("list", "a")
        line.lpush("list", "b")
    assert [b"secret" in each for each in heard] == [True, True]
    with pytest.raises(OSError, match="No such file"):
        line.lpush("list", "c")


def test_a_refusal_is_told_in_the_servers_words(tmp_path: Path) -> None:
    refusal = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n"
    with server(tmp_path / "s", refusal), pytest.raises(Refused, match="WRONGPASS") as caught:
        RedisLine(str(tmp_path / "s"), ("mistyped",)).lpush("list", "a")
    settings = settings_for(tmp_path, redis_url="redis://:mistyped@host")
    found = redis_connection.refusal(caught.value, settings)
    assert isinstance(found, Unreachable)
    assert "refuses the password" in found.message
    assert "mistyped" not in found.message


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(TimeoutError):
            RedisLine(str(tmp_path / "s"), timeout_s=0.05).lpush("list", "a")


@pytest.mark.parametrize(
    ("url", "address", "greeting"),
    [
        ("redis://host", ("host", 6379), []),
        ("redis://:p%40ss@host:7000/3", ("host", 7000), [("AUTH", "p@ss"), ("SELECT", "3")]),
        ("redis://ann:pass@10.0.0.1/0", ("10.0.0.1", 6379), [("AUTH", "ann", "pass")]),
    ],
)
def test_plain_urls_are_the_lines(tmp_path: Path, url: str, address: object, greeting: list[tuple[str, ...]]) -> None:
    line = redis_connection.open_line(settings_for(tmp_path, redis_url=url))
    assert isinstance(line, RedisLine)
    assert (line._address, line._greeting) == (address, greeting)


@pytest.mark.parametrize(
    "url", ["rediss://:p@host", "redis://host?protocol=3", "unix:///run/s", "redis://[::1]:6379", "redis://ann@host"]
)
def test_all_other_urls_are_redis_pys(tmp_path: Path, url: str) -> None:
    assert not isinstance(redis_connection.open_line(settings_for(tmp_path, redis_url=url)), RedisLine)
