"""A Redis server on a loopback TCP port with a password: what a user brings by DLJOBS_REDIS_URL."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from dljobs.service.redis_binary import find_redis_binary
from tests.waiting import wait_until

PASSWORD = "of-the-tests"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class RedisServer:
    """One server; `kill` and `start` again keep the port."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "requirepass": PASSWORD,
            "save": "",
            "appendonly": "yes",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([str(find_redis_binary().path), *arguments], stdout=log, stderr=log)
        wait_until(self._answers, 10, "the answer of redis-server")

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)

    def _answers(self) -> bool:
        with contextlib.suppress(RedisError), Redis.from_url(self.url) as client:
            return bool(client.ping())
        return False
