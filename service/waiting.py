"""Waiting: a client that watches jobs in the database until they end, and hands on what their ranks print.

It only reads, so a client that goes away changes nothing. It polls, quickly while something happens and slowly while
nothing does: rows are the truth, and a message that says "look" could be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping

from dljobs.errors import DljobsError, NotFinished, Unreachable

from . import artifacts, jobs, log_report, logs, reports, runs, views
from .database import Database
from .logs import nodes_by_rank
from .states import ENDED_JOBS, JobState
from .views import Json

FASTEST_POLL_S = 0.05
SLOWEST_POLL_S = 1.0
# A database that restarts should not end a `submit --wait` of a whole night.
PATIENCE_S = 60.0
LINES_AT_ONCE = 5000
EVENTS_AT_ONCE = 1000
# On Postgres a row may become visible after one with a higher id: so many ids are looked at again.
UNSETTLED_EVENTS = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Glimpse:
    """What was seen at one look: the Job, and the lines of its log that are new."""

    job: Json
    lines: list[Json]


class Poll:
    """The rhythm of looking: faster after something happened, slower the longer nothing does.

    Args:
        timeout_s: give up after so long.
        sleep: how to wait; tests give their own.
    """

    def __init__(self, timeout_s: float | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._sleep = sleep
        self._pause_s = FASTEST_POLL_S

    def pause(self, *, happened: bool) -> bool:
        """Wait until the next look; False if the time is up."""
        self._pause_s = FASTEST_POLL_S if happened else min(self._pause_s * 1.3, SLOWEST_POLL_S)
        left_s = SLOWEST_POLL_S if self._deadline is None else self._deadline - time.monotonic()
        if left_s <= 0:
            return False
        self._sleep(min(self._pause_s, left_s))
        return True


def wait_for(database: Database, job_ids: Sequence[int], *, lease_s: float, poll: Poll) -> list[Json]:
    """Wait until all these jobs have ended; returns them.

    Raises:
        NotFinished: the time is up, and a job goes on.
    """
    left = list(dict.fromkeys(job_ids))
    seen: dict[int, JobState] = {}
    while True:
        states = _look(database, partial(_states, left))
        left = [job_id for job_id in left if states[job_id] not in ENDED_JOBS]
        if not left:
            return _look(database, lambda connection: reports.jobs_in(connection, job_ids, lease_s=lease_s))
        if not poll.pause(happened=states != seen):
            raise unfinished(left)
        seen = {job_id: states[job_id] for job_id in left}


def wait_for_checkpoint(database: Database, run: Mapping[Any, Any], *, poll: Poll) -> Json:
    """Wait until the request for a checkpoint that the run (a row) bears is answered; returns the Artifact.

    Raises:
        NotFinished: the time is up; the request stands.
        DljobsError: there will be none; the message says why.
    """
    asked_at = run["checkpoint_requested_at"]
    while True:
        now, stored = _look(database, lambda connection: _checkpoints_since(connection, run, asked_at))
        is_over = now["ended_at"] is not None
        if stored and (is_over or now["checkpoint_requested_at"] is None):
            return views.artifact_view(stored[-1])
        if is_over:
            raise DljobsError(f"run {now['number']} of job {run['job_id']} ended before it: {now['reason']}")
        if now["checkpoint_requested_at"] is None:
            hint = f"`dljobs logs {run['job_id']}` has its last lines"
            raise DljobsError("the checkpoint was dropped: there was no room for it; training goes on", hint)
        if not poll.pause(happened=False):
            raise NotFinished(f"stopped waiting: job {run['job_id']} is asked for a checkpoint and goes on")


def _checkpoints_since(
    connection: Connection, run: Mapping[Any, Any], asked_at: float
) -> tuple[RowMapping, list[RowMapping]]:
    rows = artifacts.list_artifacts(connection, run["job_id"], kind="checkpoint", from_run=run["number"])
    of_run = [row for row in rows if row["run_id"] == run["id"] and row["created_at"] >= asked_at]
    return runs.get_run(connection, run["id"]), of_run


def unfinished(job_ids: Sequence[int]) -> NotFinished:
    """The error that says which jobs go on without this client."""
    listed = ", ".join(f"job {job_id}" for job_id in job_ids[:5])
    more = f" and {len(job_ids) - 5} more" if len(job_ids) > 5 else ""
    return NotFinished(
        f"stopped waiting: {listed}{more} go{'es' if len(job_ids) == 1 else ''} on",
        f"wait again with `dljobs wait {job_ids[0]}`, end it with `dljobs cancel {job_ids[0]}`",
    )


def follow(
    database: Database, job_id: int, *, lease_s: float, poll: Poll, rank: int | None = None, tail: int | None = None
) -> Iterator[Glimpse]:
    """Look at a job until it has ended and the last line of its log is told.

    Args:
        tail: of what is already in the log, only the last so many lines.

    Raises:
        NotFinished: the time is up.
    """
    after_id, seen = 0, ""
    while True:
        glimpse = _look(database, partial(_glimpse, job_id, lease_s, rank, after_id, tail))
        after_id = glimpse.lines[-1]["id"] if glimpse.lines else after_id
        if tail == 0:  # the last line was only read to know where the new ones begin
            glimpse.lines.clear()
        tail = None
        yield glimpse
        if len(glimpse.lines) == LINES_AT_ONCE:
            continue
        if glimpse.job["state"] in ENDED_JOBS:
            return
        if not poll.pause(happened=bool(glimpse.lines) or glimpse.job["state"] != seen):
            raise unfinished([job_id])
        seen = glimpse.job["state"]


def follow_events(database: Database, *, job_id: int | None, limit: int, poll: Poll) -> Iterator[list[Json]]:
    """The newest `limit` events, and then each new one, without end."""
    events_after = partial(reports.list_events, database, job_id=job_id)
    first = events_after(limit=limit)
    yield first
    oldest = first[0]["id"] - 1 if first else 0
    told = {event["id"] for event in first}
    while True:
        after_id = max(oldest, max(told, default=0) - UNSETTLED_EVENTS)
        told = {event_id for event_id in told if event_id > after_id}
        new = [event for event in events_after(after_id=after_id, limit=EVENTS_AT_ONCE) if event["id"] not in told]
        if new:
            yield new
            told |= {event["id"] for event in new}
        if not poll.pause(happened=bool(new)):
            return


def _glimpse(
    job_id: int, lease_s: float, rank: int | None, after_id: int, tail: int | None, connection: Connection
) -> Glimpse:
    # The job first: once it has ended, its log is complete.
    job = reports.job_in(connection, job_id, lease_s=lease_s)
    numbers = log_report.run_numbers(connection, job_id)
    last = None if tail is None else max(tail, 1)
    rows = logs.list_lines(connection, list(numbers), rank=rank, after_id=after_id, tail=last, limit=LINES_AT_ONCE)
    of_ranks = nodes_by_rank(connection, list({row["run_id"] for row in rows}))
    return Glimpse(job, [views.line_view(row, numbers[row["run_id"]], of_ranks) for row in rows])


def _states(job_ids: Sequence[int], connection: Connection) -> dict[int, JobState]:
    return jobs.states_of(connection, job_ids)


def _look(database: Database, query: Callable[[Connection], T]) -> T:
    """Read in a transaction of its own; a database that is away for less than `PATIENCE_S` is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with database.read() as connection:
                return query(connection)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(SLOWEST_POLL_S)
