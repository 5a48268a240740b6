"""Notices on their way into the database: those of a worker's runs that come at the same time go in one transaction.

What an end means for its job is `service/ends.py`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from dljobs.errors import OUTAGES
from dljobs.service.database import Database
from dljobs.service.ends import Notice, stale, take_notices
from dljobs.service.states import JobState

_Waiting = tuple[Notice, "Future[JobState]"]


class Notices:
    """The notices of one worker that wait to be written."""

    def __init__(self, database: Database, *, actor: str) -> None:
        self._database = database
        self._actor = actor
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()  # guards the list above

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, notice: Notice) -> Future[JobState]:
        """Have it written by the next `write`; the answer is the job's state then, or what kept it from being written.

        It is StaleToken where the run is no longer this worker's, and an outage where the database is away.
        """
        answer: Future[JobState] = Future()
        with self._lock:
            self._waiting.append((notice, answer))
        return answer

    def write(self) -> bool:
        """Write all that wait, and answer each; raises nothing. Whether a run has ended."""
        with self._lock:
            group, self._waiting = self._waiting, []
        if group:
            self._write(group)
        return any(notice.outcome is not None for notice, _answer in group)

    def _write(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._database.write() as connection:
                states = take_notices(connection, [notice for notice, _ in group], actor=self._actor)
        except Exception as error:
            if len(group) > 1 and not isinstance(error, OUTAGES):
                for each in group:  # one that cannot be written keeps the others from nothing
                    self._write([each])
                return
            for _, answer in group:
                answer.set_exception(error)
            return
        for notice, answer in group:
            if notice.run_id in states:
                answer.set_result(states[notice.run_id])
            else:
                answer.set_exception(stale(notice.run_id))
