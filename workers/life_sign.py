"""What a worker tells whoever watches over its process, such as systemd or a kubelet: ready, alive, stopping.

It says so to systemd's socket if there is one (sd_notify, see systemd.service(5), `Type=notify`), and by the time of a
file. Both mean that the process goes round, not that a server answers: a worker whose database is down must live on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path


class LifeSign:
    """The signs of one worker.

    Args:
        file: touched with each sign, removed at the end.
        environ: systemd's variables are taken out of it, so that no rank speaks for the worker.
    """

    def __init__(self, file: Path, environ: MutableMapping[str, str]) -> None:
        self._file = file
        self._address = environ.pop("NOTIFY_SOCKET", "")
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            environ.pop(name, None)

    def ready(self, status: str) -> None:
        """The worker is registered."""
        self._touch()
        self._notify(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """The worker has gone round once more."""
        self._touch()
        self._notify("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The worker drains."""
        self._notify(f"STOPPING=1\nSTATUS={status}")

    def end(self) -> None:
        """The worker has nothing more to say."""
        self._file.unlink(missing_ok=True)

    def _touch(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is told by those who need to write
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.touch()

    def _notify(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(message.encode(), address)


def life_sign_of(home: Path, worker_name: str) -> LifeSign:
    """The signs of the worker with this name, whose file is `HOME/workers/NAME.alive`."""
    return LifeSign(home / "workers" / f"{worker_name}.alive", os.environ)
