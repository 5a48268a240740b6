"""Jobs: their rows, and how one moves from state to state.

`move_job`, `move_jobs` and `move_locked` are the only code that writes `jobs.state`; they ask the table in `states.py`
and leave events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, select, true, update

from dljobs.errors import DljobsError, NotFound

from .clock import now
from .database import update_each
from .events import record, record_all, record_each
from .names import MAX_ID
from .sizes import Size
from .statements import in_batches, value
from .states import ENDED_JOBS, JOB_TRANSITIONS, PLACED_JOBS, WAITING_JOBS, JobState
from .tables import jobs

if TYPE_CHECKING:
    pass


ACTIVE_JOBS = (*PLACED_JOBS, *WAITING_JOBS)
RETRYABLE_JOBS = (JobState.FAILED, JobState.CANCELLED)


def get_job(connection: Connection, job_id: int, *, lock: bool = False) -> RowMapping:
    """The job's row.

    Args:
        lock: nobody else may move the job until this transaction ends; whoever decides by its state needs that.

    Raises:
        NotFound: there is no such job.
    """
    row = None
    if 0 < job_id <= MAX_ID:
        query = select(jobs).where(jobs.c.id == job_id)
        row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}", "list jobs with `dljobs status --all`")
    return row


def get_jobs(connection: Connection, job_ids: Sequence[int]) -> list[RowMapping]:
    """The rows of these jobs, in the order in which they are named.

    Raises:
        NotFound: there is no such job.
    """
    found: dict[int, RowMapping] = {}
    for ids in in_batches([job_id for job_id in job_ids if 0 < job_id <= MAX_ID]):
        rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids))).mappings()
        found.update((row["id"], row) for row in rows)
    return [found[job_id] if job_id in found else get_job(connection, job_id) for job_id in job_ids]


def states_of(connection: Connection, job_ids: Sequence[int]) -> dict[int, JobState]:
    """The states of these jobs."""
    found: dict[int, JobState] = {}
    for ids in in_batches(job_ids):
        rows = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(ids)))
        found.update((row.id, JobState(row.state)) for row in rows)
    return found


def size_of(job: Mapping[Any, Any]) -> Size:
    """What the job asks for."""
    return Size(job["num_devices"], job["min_devices"], job["share_percent"])


def list_active(
    connection: Connection, which: ColumnElement[bool] | None = None, states: Iterable[JobState] = ACTIVE_JOBS
) -> list[RowMapping]:
    """Jobs that run or wait, in the order in which the scheduler considers them.

    Args:
        which: only some of them.
        states: only those in one of these.
    """
    query = select(jobs).where(jobs.c.state.in_(states), true() if which is None else which)
    return list(connection.execute(query.order_by(jobs.c.priority.desc(), jobs.c.submitted_at, jobs.c.id)).mappings())


def has_queued(connection: Connection) -> bool:
    """Whether any job may start."""
    return value(connection, "SELECT 1 FROM jobs WHERE state = :queued LIMIT 1", queued=JobState.QUEUED) is not None


def list_waiting(connection: Connection) -> list[RowMapping]:
    """Jobs in the queue, held ones too: whose they are."""
    columns = (jobs.c.id, jobs.c.state, jobs.c.user, jobs.c.tags_json)
    return list(connection.execute(select(*columns).where(jobs.c.state.in_(WAITING_JOBS))).mappings())


def move_job(
    connection: Connection,
    job_id: int,
    to: JobState,
    *,
    actor: str,
    reason: str,
    run_id: int | None = None,
    **values: Any,
) -> JobState:
    """Move a job to state `to`, with `values` for its other columns, and record it. Returns the state it was in.

    Raises:
        DljobsError: the table of transitions does not allow it; nothing was changed.
    """
    row = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    was = JobState(row.state)
    check_move(job_id, was, to)
    if to in ENDED_JOBS:
        values["ended_at"] = now()
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(state=to, reason=reason, **values))
    record(connection, "job", reason, actor=actor, from_state=was, to_state=to, job_id=job_id, run_id=run_id)
    return was


@dataclass(frozen=True)
class Move:
    """Where a job goes whose row the caller has locked; `values` are for other columns."""

    job_id: int
    was: JobState
    to: JobState
    reason: str
    run_id: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def check_move(job_id: int, was: JobState, to: JobState) -> None:
    """Raise DljobsError if the table of transitions does not allow it."""
    if to not in JOB_TRANSITIONS[was]:
        raise DljobsError(f"job {job_id} is {was}: it cannot become {to}")


def move_locked(connection: Connection, moves: Sequence[Move], moment: float, *, actor: str) -> None:
    """As `move_job`, of many jobs to many states at one moment of the database's clock, in a few statements.

    Raises:
        DljobsError: the table of transitions does not allow one of them; nothing was changed.
    """
    for move in moves:
        check_move(move.job_id, move.was, move.to)
    update_each(
        connection,
        jobs,
        {
            move.job_id: {"state": move.to, "reason": move.reason, **move.values}
            | ({"ended_at": moment} if move.to in ENDED_JOBS else {})
            for move in moves
        },
    )
    told = {"kind": "job", "actor": actor, "at": moment}
    record_each(
        connection,
        [
            {"job_id": move.job_id, "run_id": move.run_id, "reason": move.reason}
            | {"from_state": move.was, "to_state": move.to, **told}
            for move in moves
        ],
    )


def move_jobs(
    connection: Connection, which: ColumnElement[bool], to: JobState, *, actor: str, reason: str, **values: Any
) -> int:
    """As `move_job`, for all of these jobs that may go there, in three statements; returns how many."""
    allowed = [state for state, following in JOB_TRANSITIONS.items() if to in following]
    movable = and_(which, jobs.c.state.in_(allowed))
    # Locked in one order, so that two who move many wait for each other instead of for ever.
    locked = connection.execute(select(jobs.c.id).where(movable).order_by(jobs.c.id).with_for_update()).all()
    if to in ENDED_JOBS:
        values["ended_at"] = now()
    record_all(connection, "job", reason, movable, actor=actor, from_state=jobs.c.state, to_state=to)
    connection.execute(update(jobs).where(movable).values(state=to, reason=reason, **values))
    return len(locked)


def request_cancel(connection: Connection, job_id: int, *, actor: str) -> JobState:
    """Cancel a waiting job at once, or ask for the end of a placed one. Returns the state the job is in now.

    Raises:
        DljobsError: the job has already ended.
    """
    job = get_job(connection, job_id, lock=True)
    state = JobState(job["state"])
    if state in ENDED_JOBS:
        raise DljobsError(f"job {job_id} has already ended: it is {state}")
    if state in WAITING_JOBS:
        move_job(connection, job_id, JobState.CANCELLED, actor=actor, reason=f"cancelled by {actor}")
        return JobState.CANCELLED
    asked = update(jobs).where(jobs.c.id == job_id, jobs.c.cancel_requested_at.is_(None))
    if connection.execute(asked.values(cancel_requested_at=now())).rowcount:
        record(connection, "cancel", f"{actor} asked for its end", actor=actor, job_id=job_id)
    return state


def retry_job(connection: Connection, job_id: int, *, actor: str, fresh: bool) -> None:
    """Queue a failed or cancelled job again, from its last checkpoint or (`fresh`) from its beginning.

    Raises:
        DljobsError: the job has not failed.
    """
    job = get_job(connection, job_id, lock=True)
    if JobState(job["state"]) not in RETRYABLE_JOBS:
        hint = f"submit it anew: dljobs submit {job['model']}" if job["state"] == JobState.SUCCEEDED else ""
        raise DljobsError(f"job {job_id} is {job['state']}: only a failed or cancelled job can be retried", hint)
    retry_jobs(connection, jobs.c.id == job_id, actor=actor, fresh=fresh)


def retry_jobs(connection: Connection, which: ColumnElement[bool], *, actor: str, fresh: bool) -> int:
    """As `retry_job`, for all of these jobs that failed or were cancelled; returns how many."""
    values: dict[str, Any] = {"num_retries": 0, "num_lost": 0, "failure_class": None, "ended_at": None}
    values |= {"cancel_requested_at": None, "eligible_at": None, "result_json": None, "prune_reason": None}
    # Whoever wants a pruned trial to go on would not have it pruned once more.
    values["may_be_pruned"] = case((jobs.c.prune_reason.is_(None), jobs.c.may_be_pruned), else_=0)
    if fresh:
        values["first_resumable_run"] = jobs.c.num_runs + 1
    how = "from the beginning" if fresh else "from its last checkpoint, if it has one"
    reason = f"retried by {actor}, {how}"
    again = and_(which, jobs.c.state.in_(RETRYABLE_JOBS))
    return move_jobs(connection, again, JobState.QUEUED, actor=actor, reason=reason, **values)


def hold_job(connection: Connection, job_id: int, *, actor: str, release: bool = False) -> None:
    """Keep a queued job from starting, or let a held one go.

    Raises:
        DljobsError: the job is in another state.
    """
    state = get_job(connection, job_id, lock=True)["state"]
    # Other states may go to `queued` too, but not by a user's word.
    if release and state != JobState.HELD:
        raise DljobsError(f"job {job_id} is {state}: only a held job can be released")
    to, reason = (JobState.QUEUED, f"released by {actor}") if release else (JobState.HELD, f"held by {actor}")
    move_job(connection, job_id, to, actor=actor, reason=reason)
