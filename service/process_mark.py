"""A process named so that a recycled pid is never taken for it: the pid, and when the kernel started it.

It owns how we recognise, signal and await a process that may not be our child. It knows nothing of what it does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_S = 0.02


@dataclass(frozen=True)
class ProcessMark:
    """`pid`, and `born`: text that no other process on any host has together with this pid."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """The mark of a live process; None when there is none (a zombie is none)."""
        born = _born(pid)
        return cls(pid, born) if born else None

    @classmethod
    def from_json(cls, fields: Any) -> ProcessMark | None:
        """The mark that `to_json` wrote; None for anything else, since a file may be cut or from another release."""
        if isinstance(fields, Mapping) and isinstance(fields.get("pid"), int) and isinstance(fields.get("born"), str):
            return cls(fields["pid"], fields["born"])
        return None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"pid": self.pid, "born": self.born}

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return _born(self.pid) == self.born

    def send(self, signum: int) -> bool:
        """Signal the process; False if it is gone."""
        try:
            if not hasattr(os, "pidfd_open"):
                if not self.is_alive():
                    return False
                os.kill(self.pid, signum)
                return True
            # The descriptor holds on to the process, so that nothing can take its pid between the look and the signal.
            descriptor = os.pidfd_open(self.pid)
            try:
                if not self.is_alive():
                    return False
                signal.pidfd_send_signal(descriptor, signum)
            finally:
                os.close(descriptor)
        except ProcessLookupError:
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process is gone; False if it still runs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def end(self, patience_s: float) -> str:
        """SIGTERM, and SIGKILL after `patience_s`. Returns "gone" (it was already), "stopped" or "killed"."""
        if not self.send(signal.SIGTERM):
            return "gone"
        if self.wait(patience_s):
            return "stopped"
        self.send(signal.SIGKILL)
        self.wait(patience_s)
        return "killed"


def _born(pid: int) -> str:
    if sys.platform != "linux":
        import psutil  # only where it is needed: a client that asks about no process does not wait for it

        try:
            process = psutil.Process(pid)
            return "" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        except psutil.Error:
            return ""
    # psutil's create_time moves when the wall clock is set. The kernel's ticks since boot do not; the boot's id keeps
    # a file that survived a reboot, or that another host wrote to a shared home, from naming a process here.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and parentheses
    state, start_ticks = fields[0], fields[19]
    return "" if state in {"Z", "X"} else f"{boot}:{start_ticks}"
