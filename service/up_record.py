"""What `dljobs up` writes down about itself in its home: `up.lock`, held while it lives, and `up.json`, who runs.

It owns these two files. `up` writes them; `down`, a second `up` and the next one after a crash read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dljobs.errors import DljobsError

from .process_mark import ProcessMark


@dataclass(frozen=True)
class UpState:
    """Who runs, or ran last, on a home. `worker_name` is "" until the worker is ready."""

    up: ProcessMark | None = None
    worker: ProcessMark | None = None
    phase: str = ""  # "starting", "running", "stopping"
    host: str = ""
    worker_name: str = ""
    num_devices: int = 0

    @property
    def up_is_alive(self) -> bool:
        """Whether that `up` still runs, on this host."""
        return self.up is not None and self.up.is_alive()

    @property
    def worker_is_alive(self) -> bool:
        """Whether its worker still runs, on this host, with or without its `up`."""
        return self.worker is not None and self.worker.is_alive()


class UpRecord:
    """The record of one home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "up.json"
        self._lock_path = home / "up.lock"
        self._lock: IO[str] | None = None  # while this process has the claim

    def read(self) -> UpState:
        """What the file says; an empty state if there is none, or none that can be read."""
        try:
            fields: Any = json.loads(self._path.read_text())
            return UpState(
                up=ProcessMark.from_json(fields["up"]),
                worker=ProcessMark.from_json(fields["worker"]),
                phase=str(fields["phase"]),
                host=str(fields["host"]),
                worker_name=str(fields["worker_name"]),
                num_devices=int(fields["num_devices"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return UpState()

    def write(self, phase: str, worker: ProcessMark | None, worker_name: str = "", num_devices: int = 0) -> None:
        """Say how this process and its worker stand."""
        up = ProcessMark.of(os.getpid())
        fields = {
            "up": up and up.to_json(),
            "worker": worker and worker.to_json(),
            "phase": phase,
            "host": socket.gethostname(),
            "worker_name": worker_name,
            "num_devices": num_devices,
        }
        temporary = self._path.with_name(f".up.json.{os.getpid()}")
        temporary.write_text(json.dumps(fields) + "\n")
        temporary.replace(self._path)

    def clear(self) -> None:
        """Nothing runs any more."""
        self._path.unlink(missing_ok=True)

    def refuse_second(self) -> None:
        """Raises DljobsError, naming its pid, if an `up` of this host runs on this home."""
        state = self.read()
        if state.up and state.up.is_alive():
            raise DljobsError(
                f"dljobs up already runs on {self._home} (pid {state.up.pid})",
                "`dljobs status` shows its jobs, `dljobs down` stops it",
            )

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Be the one `up` of this home within the block. The kernel gives the claim back however this process ends.

        Raises:
            DljobsError: another one runs; the message names its pid.
        """
        with self._lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.refuse_second()
                where = self.read().host or "this host"  # a home may be shared between hosts
                raise DljobsError(f"another dljobs up has {self._home} (on {where})", "stop it there first") from None
            self._lock = lock
            try:
                yield
            finally:
                if self.is_claimed():
                    with contextlib.suppress(OSError):
                        self.clear()
                self._lock = None

    def is_claimed(self) -> bool:
        """Whether this process has the claim still: not when the home was deleted, even if it was made anew since."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), self._lock_path.stat())
        except OSError:
            return False
