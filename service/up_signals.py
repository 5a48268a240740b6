"""The signals that `dljobs up` lives by, turned into something its one loop can wait for.

Each one is counted, also two that arrive before Python gets to run: the second means "at once".
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class UpSignals:
    """A context for the main thread: in it, signals that ask to stop are counted, and a child's end wakes `wait`."""

    def __init__(self) -> None:
        self.num_stops = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> UpSignals:
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for signum in (*STOP_SIGNALS, signal.SIGCHLD):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as `nohup` leaves SIGHUP
                self._before[signum] = signal.signal(signum, _noted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_s: float, *descriptors: int) -> None:
        """Return when a signal came, one of `descriptors` can be read, or `timeout_s` has passed."""
        select.select([self._reader.fileno(), *descriptors], [], [], max(0.0, timeout_s))
        with contextlib.suppress(BlockingIOError):
            self.num_stops += sum(signum in STOP_SIGNALS for signum in self._reader.recv(4096))


def _noted(_signum: int, _frame: FrameType | None) -> None:
    """The kernel's delivery has written the signal's number to the wake-up descriptor: nothing is left to do."""
