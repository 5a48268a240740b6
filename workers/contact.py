"""Contact: whether this worker may judge by the database that another one is silent.

While the database is away no heartbeat arrives, and when it is back all leases look as if their workers were dead.
So whoever had no steady contact with it himself is no judge of others: they get the time to beat first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Beats that may be missing before it is a gap, and that all others have time for after one.
PATIENCE_BEATS = 2.0


class Contact:
    """The heartbeats of one worker that have arrived.

    Args:
        heartbeat_s: how often it beats.
        clock: seconds that no change of the host's time moves.
    """

    def __init__(self, heartbeat_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = PATIENCE_BEATS * heartbeat_s
        self._clock = clock
        self._since = self._last = clock()

    def made(self) -> None:
        """A heartbeat has arrived."""
        if self._is_late():
            self._since = self._clock()
        self._last = self._clock()

    def lost(self) -> None:
        """The database did not answer, or did not take what it was given."""
        self._since = self._clock()

    @property
    def is_steady(self) -> bool:
        """Whether all others have had time to beat since the last gap, and there is none now."""
        return not self._is_late() and self._clock() - self._since > self._patience_s

    def _is_late(self) -> bool:
        return self._clock() - self._last > self._patience_s
