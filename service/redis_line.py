"""A line to Redis: as much of its protocol as a ring needs, which is to log in and to put something into a list.

Loading redis-py takes a client longer than all else that `dljobs submit` does. It knows neither URLs, which are
`redis_connection.py`'s, nor what it carries; TLS and whatever else a URL may ask for is redis-py's.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP 2)
"""

from __future__ import annotations

import socket
import threading
from typing import BinaryIO

Address = str | tuple[str, int]  # the path of a unix socket, or host and port


class Refused(Exception):
    """The server answered with an error; the message holds its words."""


class RedisLine:
    """One connection, made at the first push and again after the server was away; safe to share between threads.

    Args:
        login: of AUTH: a password, a user and a password, or nothing.
    """

    def __init__(
        self, address: Address, login: tuple[str, ...] = (), database: int = 0, timeout_s: float = 5.0
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._greeting = [("AUTH", *login)] if login else []
        self._greeting += [("SELECT", str(database))] if database else []
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._answers: BinaryIO | None = None

    def lpush(self, key: str, value: str) -> None:
        """Put a value at the head of a list.

        Raises:
            OSError: the server is not there, or does not answer in time.
            Refused: it does not let us.
        """
        with self._lock:
            is_new = self._socket is None
            try:
                self._push(key, value)
            except OSError:
                self._hang_up()
                if is_new:
                    raise
                self._push(key, value)  # the server may have been started anew since the last time

    def close(self) -> None:
        """Hang up; the next push connects again."""
        with self._lock:
            self._hang_up()

    def _push(self, key: str, value: str) -> None:
        commands: list[tuple[str, ...]] = [("LPUSH", key, value)]
        if self._socket is None:
            self._connect()
            commands = [*self._greeting, *commands]
        assert self._socket is not None
        # All at once: the greeting costs no round trips of its own.
        self._socket.sendall(b"".join(map(_encoded, commands)))
        refusals = [words for _command in commands if (words := self._read_refusal())]
        if refusals:
            self._hang_up()
            raise Refused(refusals[0])

    def _connect(self) -> None:
        if isinstance(self._address, str):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._timeout_s)
            self._socket.connect(self._address)
        else:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def _read_refusal(self) -> str:
        """The words of an answer that is an error; "" of any other."""
        assert self._answers is not None
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("Redis hung up")
        return line[1:].decode(errors="replace").strip() if line[:1] == b"-" else ""

    def _hang_up(self) -> None:
        for each in (self._answers, self._socket):
            if each is not None:
                each.close()
        self._socket = self._answers = None


def _encoded(words: tuple[str, ...]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
