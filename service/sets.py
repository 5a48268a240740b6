"""Sets: arrays and sweeps, jobs that were submitted as one and can be asked for things as one.

A set's row holds what its jobs have in common; how the set stands is counted from their rows. Whatever is asked of all
of them happens in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from dljobs.errors import DljobsError, NotFound, UsageError

from .axes import Axis
from .clock import now, read_now
from .database import Lock, wait_for_lock
from .events import record_all
from .failures import FailureClass
from .halving import Rule
from .jobs import move_jobs, retry_jobs
from .new_jobs import NewJob, add_inserted, job_values, resolve_dependencies
from .states import ENDED_JOBS, LIVE_RUNS, PLACED_JOBS, WAITING_JOBS, JobState
from .tables import jobs, run_parts, runs, sets, workers

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Member:
    """One job of a set that is to be: its index, and what it has of each axis."""

    index: int
    point: Mapping[str, Any]
    job: NewJob


@dataclass(frozen=True)
class NewSet:
    """Everything that a set and its jobs need; the first job says what they have in common."""

    members: Sequence[Member]
    axes: Sequence[Axis]
    max_parallel: int | None = None
    halving: Rule | None = None
    warnings: tuple[str, ...] = ()


def insert_set(connection: Connection, new: NewSet) -> tuple[int, bool]:
    """Insert the set and all its jobs, or find the one this user already submitted under the same idempotency key.

    Returns:
        The set's id, and whether it was made now.

    Raises:
        NotFound, UsageError: a job that they are to wait for is none, or the key is that of a job.
    """
    first = new.members[0].job
    key = first.idempotency_key
    existing = find_same(connection, first)
    if existing is not None:
        return existing, False
    if key is not None:
        alone = select(jobs.c.id).where(jobs.c.user == first.user, jobs.c.idempotency_key == key)
        if job_id := connection.execute(alone).scalar():
            raise UsageError(f"idempotency key {key!r} was used before, for job {job_id}", "choose another for the set")
    after = resolve_dependencies(connection, first)
    moment = read_now(connection)
    try:
        with connection.begin_nested():
            made = insert(sets).values(submitted_at=moment, **_values(new)).returning(sets.c.id)
            set_id = int(connection.execute(made).scalar_one())
    except IntegrityError:
        # Only on Postgres: another client has committed the same key since we looked.
        existing = find_same(connection, first)
        if existing is None:
            raise
        return existing, False
    # In pieces, so that a hundred thousand are not in memory twice.
    for start in range(0, len(new.members), ROWS_AT_ONCE):
        rows = [_job_row(set_id, member, moment) for member in new.members[start : start + ROWS_AT_ONCE]]
        connection.execute(insert(jobs), rows)
    add_inserted(connection, first, after, "set_id = :set_id", set_id=set_id)
    return set_id, True


def find_same(connection: Connection, first: NewJob) -> int | None:
    """The set that this user already submitted under the idempotency key of its first job."""
    if first.idempotency_key is None:
        return None
    same_key = (sets.c.user == first.user, sets.c.idempotency_key == first.idempotency_key)
    found = connection.execute(select(sets.c.id).where(*same_key)).scalar()
    return None if found is None else int(found)


def _values(new: NewSet) -> dict[str, Any]:
    first = new.members[0].job
    axes = [{"name": axis.name, "is_log": axis.is_log, "is_drawn": axis.is_drawn} for axis in new.axes]
    return {
        "name": first.name,
        "user": first.user,
        "idempotency_key": first.idempotency_key,
        "model": first.spec.model,
        "metric": first.spec.metric,
        "goal": first.spec.goal,
        "num_jobs": len(new.members),
        "axes_json": json.dumps(axes),
        "max_parallel": new.max_parallel,
        "halving_json": None if new.halving is None else new.halving.to_json(),
    }


def _job_row(set_id: int, member: Member, moment: float) -> dict[str, Any]:
    # The key is the set's: no two jobs may have the same.
    values = job_values(replace(member.job, idempotency_key=None), moment)
    return {**values, "set_id": set_id, "set_index": member.index, "point_json": json.dumps(dict(member.point))}


def describe_point(point: Mapping[str, Any]) -> str:
    """`lr=0.1 seed=3`."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items()
    )


def get_set(connection: Connection, set_id: int) -> RowMapping:
    """The set's row.

    Raises:
        NotFound: there is no such set.
    """
    row = connection.execute(select(sets).where(sets.c.id == set_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no set s{set_id}", "list sets with `dljobs status --all`")
    return row


def first_job_id(connection: Connection, set_id: int) -> int:
    """The job of the lowest index."""
    of_set = select(jobs.c.id).where(jobs.c.set_id == set_id).order_by(jobs.c.set_index)
    return int(connection.execute(of_set.limit(1)).scalar_one())


# What is asked of all jobs of a set


def cancel_set(connection: Connection, set_id: int, *, actor: str) -> tuple[int, int]:
    """Cancel what waits at once, and ask for the end of what is placed; returns how many of either.

    Raises:
        DljobsError: all have ended.
    """
    of_set = lock_jobs(connection, set_id)
    waiting = and_(of_set, jobs.c.state.in_(WAITING_JOBS))
    num_cancelled = move_jobs(connection, waiting, JobState.CANCELLED, actor=actor, reason=f"cancelled by {actor}")
    placed = and_(of_set, jobs.c.state.in_(PLACED_JOBS))
    num_placed = connection.execute(select(func.count()).select_from(jobs).where(placed)).scalar_one()
    asked = and_(placed, jobs.c.cancel_requested_at.is_(None))
    record_all(connection, "cancel", f"{actor} asked for its end", asked, actor=actor, to_state=None)
    connection.execute(update(jobs).where(asked).values(cancel_requested_at=now()))
    if not num_cancelled and not num_placed:
        raise DljobsError(f"all jobs of s{set_id} have already ended")
    return num_cancelled, int(num_placed)


def hold_set(connection: Connection, set_id: int, *, actor: str, release: bool = False) -> int:
    """Keep the queued jobs from starting, or let the held ones go; returns how many.

    Raises:
        DljobsError: there are none.
    """
    start, to = (JobState.HELD, JobState.QUEUED) if release else (JobState.QUEUED, JobState.HELD)
    reason = f"released by {actor}" if release else f"held by {actor}"
    movable = and_(lock_jobs(connection, set_id), jobs.c.state == start)
    number = move_jobs(connection, movable, to, actor=actor, reason=reason)
    if not number:
        raise DljobsError(f"no job of s{set_id} is {start}")
    return number


def retry_set(connection: Connection, set_id: int, *, actor: str, fresh: bool) -> int:
    """Queue again what failed or was cancelled by hand, for what was pruned would only be pruned again; how many.

    Raises:
        DljobsError: there are none.
    """
    by_hand = or_(jobs.c.failure_class.is_(None), jobs.c.failure_class != FailureClass.PRUNED)
    number = retry_jobs(connection, and_(lock_jobs(connection, set_id), by_hand), actor=actor, fresh=fresh)
    if not number:
        raise DljobsError(f"no job of s{set_id} has failed or was cancelled")
    return number


def set_max_parallel(connection: Connection, set_id: int, number: int) -> None:
    """Let so many of its jobs run at a time from now on; those that run go on."""
    get_set(connection, set_id)
    connection.execute(update(sets).where(sets.c.id == set_id).values(max_parallel=number))


def live_runs(
    connection: Connection, job_ids: Iterable[int] | None = None, *, set_id: int | None = None
) -> list[tuple[str, int]]:
    """The live runs of these jobs, or of all of a set: the name of each worker to ring, and the run's id."""
    which = jobs.c.set_id == set_id if job_ids is None else jobs.c.id.in_(list(job_ids))
    query = (
        select(workers.c.name, runs.c.id)
        .join(run_parts, run_parts.c.worker_id == workers.c.id)
        .join(runs, runs.c.id == run_parts.c.run_id)
        .join(jobs, jobs.c.id == runs.c.job_id)
        .where(which, runs.c.state.in_(LIVE_RUNS), run_parts.c.ended_at.is_(None))
    )
    return [(row.name, row.id) for row in connection.execute(query)]


def lock_jobs(connection: Connection, set_id: int) -> ColumnElement[bool]:
    """The condition that a job is of the set; none of them is placed, ended or queued again before this is over.

    Raises:
        NotFound: there is no such set.
    """
    get_set(connection, set_id)
    # Whoever places jobs locks several, too: one after the other, or each might wait for the other.
    wait_for_lock(connection, Lock.SCHEDULING)
    of_set = jobs.c.set_id == set_id
    going_on = select(jobs.c.id).where(of_set, jobs.c.state.not_in(ENDED_JOBS)).order_by(jobs.c.id)
    connection.execute(going_on.with_for_update()).all()
    return of_set
