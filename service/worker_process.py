"""The worker process that `dljobs up` runs: how it is started, when it is ready, how it is stopped.

It reaches the worker by its command line alone (`python -P -m dljobs.workers OPTIONS`), never by import.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .process_mark import ProcessMark
from .settings import Settings

READY_VARIABLE = "DLJOBS_READY_FD"
COMMAND = (sys.executable, "-P", "-m", "dljobs.workers")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ready:
    """What a worker says when it takes work: `ready NAME NUM_DEVICES`."""

    name: str
    num_devices: int

    @classmethod
    def parse(cls, line: str) -> Ready | None:
        """Read that line; None if it is another."""
        words = line.strip().split(" ")
        if len(words) < 3 or words[0] != "ready" or not words[-1].isdigit():
            return None
        return cls(" ".join(words[1:-1]), int(words[-1]))

    def __str__(self) -> str:
        return f"ready {self.name} {self.num_devices}\n"


class WorkerProcess:
    """One start of the worker; to be made in the main thread, see `_die_with_parent`."""

    def __init__(self, settings: Settings, options: dict[str, Any], command: Sequence[str] = COMMAND) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._said = b""
        self.ready: Ready | None = None
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                env=child_environment(settings, writer),
                pass_fds=(writer,),
                start_new_session=True,  # Ctrl-C reaches `up` alone, which passes it on once
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - this process has one thread
            )
        finally:
            os.close(writer)
        self.pid = self._process.pid
        self.mark = ProcessMark.of(self.pid)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What can be read when the worker says that it is ready."""
        return () if self.ready or self._reader < 0 else (self._reader,)

    def read_ready(self) -> bool:
        """Whether the worker has said just now that it is ready."""
        if not self.descriptors:
            return False
        try:
            chunk = os.read(self._reader, 4096)
        except BlockingIOError:
            return False
        self._said += chunk
        if not chunk:
            self.close()
        line, end, _ = self._said.partition(b"\n")
        self.ready = Ready.parse(line.decode(errors="replace")) if end else None
        return self.ready is not None

    def exit_code(self) -> int | None:
        """None while it runs; 128 + N if signal N ended it, as shells say it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask it to drain; asked a second time, it stops at once."""
        self._process.terminate()

    def kill(self) -> None:
        """End it by force; its ranks die with it."""
        self._process.kill()

    def close(self) -> None:
        """Give back the pipe's end."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


def child_environment(settings: Settings, ready_descriptor: int) -> dict[str, str]:
    """The environment of a process that has these settings and says on this descriptor when it is ready."""
    return {**settings.for_child(os.environ), READY_VARIABLE: str(ready_descriptor)}


def _die_with_parent() -> Callable[[], None] | None:
    """For the child, before it becomes the worker: SIGTERM, so that it drains, when this process is killed.

    Linux sends it when the parent's *thread* ends, hence the main thread. Elsewhere the worker outlives a killed `up`
    until the next `up` or `down` finds it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child only calls
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
