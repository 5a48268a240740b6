"""Hung ranks: when a run has been silent for too long, and where its ranks stand before they are killed.

Rank 0 gives a sign of life about once a second while it can: ranks that wait for a hung one fall silent with it. How
long a silence may be is learned from the run itself. It kills nobody.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from .channel import Event
from .failure import is_users

SIGNS = {"started", "stage", "plan", "first_step", "progress", "alive", "metrics", "losses"}
# A silence that is so many times as long as the longest of the last ones is no slow step any more.
SLOWER = 10
RECENT = 32
# Before the first step nothing is known of the run: data are prepared, perhaps downloaded, and kernels compiled.
STARTING = 12
# Whoever looks was itself away for so long (stopped, or waiting for a lock): so the ranks may have been, too.
AWAY_S = 5.0
STACKS_WITHIN_S = 3.0

_BLOCK = re.compile(r"\(most recent call first\):\n((?:  File .*\n)+)")
_FRAME = re.compile(r'File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')


class HangWatch:
    """Knows when a run was last heard of."""

    def __init__(self, floor_s: float) -> None:
        """`floor_s`: a shorter silence in mid-training is never taken for a hang."""
        self._floor_s = floor_s
        self._gaps: deque[float] = deque([0.0], maxlen=RECENT)
        self._is_training = False
        self._heard_at = self._looked_at = time.monotonic()

    @property
    def limit_s(self) -> float:
        """How long the run may be silent now."""
        return max(self._floor_s, SLOWER * max(self._gaps)) if self._is_training else STARTING * self._floor_s

    def hear(self, event: Event) -> None:
        """Take in an event of any rank."""
        if event["type"] not in SIGNS or event["rank"] != 0:
            return
        now = time.monotonic()
        if self._is_training:
            self._gaps.append(now - self._heard_at)
        self._is_training = self._is_training or event["type"] == "first_step"
        self._heard_at = now

    def excuse(self) -> None:
        """Nobody has listened until now: the silence was not the run's."""
        self._heard_at = time.monotonic()

    def overdue(self) -> str:
        """Why the run is taken to hang, or nothing. To be called all the time."""
        now = time.monotonic()
        away_s, self._looked_at = now - self._looked_at, now
        if away_s > AWAY_S:
            self._heard_at += away_s
        silent_s = now - self._heard_at
        if silent_s <= self.limit_s:
            return ""
        since = "no step" if self._is_training else "no first step"
        return f"{since} for {silent_s:.0f} s, and the limit is {self.limit_s:.0f} s"


def dump_stacks(pids: Sequence[int], logs: Sequence[Path]) -> dict[int, str]:
    """Have each of these ranks write the stacks of all its threads to its log; returns where each one stands.

    A rank that does not answer (it is stopped, or deep in the kernel) is left out. The answer comes from the C code of
    `faulthandler`, whatever the interpreter is doing.
    """
    sizes = [_size(log) for log in logs]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + STACKS_WITHIN_S
    found: dict[int, str] = {}
    while len(found) < len(logs) and time.monotonic() < deadline:
        time.sleep(0.05)
        for number, (log, size) in enumerate(zip(logs, sizes, strict=True)):
            if place := _place(log, size):
                found[number] = place
    return found


def _place(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    blocks = _BLOCK.findall(text)
    if not blocks:
        return ""
    frames = list(_FRAME.finditer(blocks[-1]))  # the main thread's is the last
    frame = next((each for each in frames if is_users(each["file"])), frames[0])
    return f"{frame['function']} ({Path(frame['file']).name}:{frame['line']})"


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
