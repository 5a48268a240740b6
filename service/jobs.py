"""Jobs: their rows, and how one moves from state to state.

`move_job`, `move_jobs` and `move_locked` are the only code that writes `jobs.state`; they ask the table in `states.py`
and leave events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, RowMapping, String, and_, case, insert, literal, select, true, update
from sqlalchemy.exc import IntegrityError

from dljobs.errors import DljobsError, NotFound, UsageError

from .clock import now, read_now
from .database import update_each
from .events import record, record_all, record_each
from .names import MAX_ID, Target, resolve
from .scheduling.rows import ANYWHERE, Condition, Selector
from .selectors import to_json
from .sizes import Size
from .sources import keep
from .spec import JobSpec
from .statements import in_batches
from .states import ENDED_JOBS, JOB_TRANSITIONS, PLACED_JOBS, WAITING_JOBS, JobState
from .tables import dependencies, jobs, set_dependencies, sets

if TYPE_CHECKING:
    from .freezing import Frozen


_INSERT = insert(jobs).returning(jobs.c.id)
ACTIVE_JOBS = (*PLACED_JOBS, *WAITING_JOBS)
RETRYABLE_JOBS = (JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Beginning:
    """The checkpoint of another job that a job begins with."""

    job_id: int
    artifact_id: int


@dataclass(frozen=True)
class NewJob:
    """Everything a job row needs besides its spec."""

    spec: JobSpec
    user: str
    name: str
    priority: int = 50
    tags: tuple[str, ...] = ()
    time_limit_s: float | None = None
    max_retries: int = 2
    idempotency_key: str | None = None
    held: bool = False
    sources: tuple[Frozen, ...] = ()  # what the spec's digests name
    warnings: tuple[str, ...] = ()
    selector: Selector = ANYWHERE
    num_nodes: int = 1
    may_spread: bool = False
    begin_at: float | None = None
    min_devices: int | None = None  # what it needs at the least; None: all that its spec says
    share_percent: int = 100  # less: a part of one device
    begin_in_s: float | None = None  # by the database's clock, which may not be the client's
    is_preemptible: bool = False
    after: tuple[tuple[str, Condition], ...] = ()  # jobs and sets as users name them: 12, @, s3
    resume_from: str | None = None  # as users name it: 12, @:best, 12:step-40
    beginning: Beginning | None = None  # what that is

    @property
    def size(self) -> Size:
        """The devices that it asks for."""
        return Size(self.spec.num_devices, self.min_devices or self.spec.num_devices, self.share_percent)


def insert_job(connection: Connection, new: NewJob) -> tuple[int, bool]:
    """Insert the job, or find the one this user already submitted under the same idempotency key.

    Returns:
        The job's id, and whether it was made now.

    Raises:
        NotFound, UsageError: a job that it is to wait for is none.
    """
    existing = find_same(connection, new)
    if existing is not None:
        return existing, False
    if new.idempotency_key is not None:
        of_set = select(sets.c.id).where(sets.c.user == new.user, sets.c.idempotency_key == new.idempotency_key)
        if set_id := connection.execute(of_set).scalar():
            words = f"idempotency key {new.idempotency_key!r} was used before, for s{set_id}"
            raise UsageError(words, "choose another for the job")
    # Before the job itself is there, which `@` would mean.
    after = resolve_dependencies(connection, new)
    try:
        # Only a key can be there already, and only on Postgres: another client has committed it since we looked.
        with nullcontext() if new.idempotency_key is None else connection.begin_nested():
            job_id = int(connection.execute(_INSERT, job_values(new, read_now(connection))).scalar_one())
    except IntegrityError:
        existing = find_same(connection, new)
        if existing is None:
            raise
        return existing, False
    add_inserted(connection, new, after, jobs.c.id == job_id)
    return job_id, True


def job_values(new: NewJob, moment: float) -> dict[str, Any]:
    """The columns of a job that is submitted now."""
    return {
        "state": JobState.HELD if new.held else JobState.QUEUED,
        "name": new.name,
        "user": new.user,
        "model": new.spec.model,
        "strategy": new.spec.strategy,
        "num_devices": new.spec.num_devices,
        "min_devices": new.size.min_devices,
        "share_percent": new.share_percent,
        "priority": new.priority,
        "tags_json": json.dumps(list(new.tags)),
        "spec_json": new.spec.to_json(),
        "idempotency_key": new.idempotency_key,
        "time_limit_s": new.time_limit_s,
        "max_retries": new.max_retries,
        "is_preemptible": int(new.is_preemptible),
        "submitted_at": moment,
        "selector_json": to_json(new.selector),
        "num_nodes": new.num_nodes,
        "may_spread": int(new.may_spread),
        "begin_at": new.begin_at if new.begin_in_s is None else moment + new.begin_in_s,
        "resumed_from_job_id": new.beginning and new.beginning.job_id,
        "resumed_from_artifact_id": new.beginning and new.beginning.artifact_id,
        "num_epochs": new.spec.training.epochs if new.spec.kind == "train" else None,
        "batch_size": new.spec.training.batch_size if new.spec.kind == "train" else None,
    }


def find_same(connection: Connection, new: NewJob) -> int | None:
    """The job that this user already submitted under the same idempotency key."""
    if new.idempotency_key is None:
        return None
    same_key = and_(jobs.c.user == new.user, jobs.c.idempotency_key == new.idempotency_key)
    found = connection.execute(select(jobs.c.id).where(same_key)).scalar()
    return None if found is None else int(found)


def resolve_dependencies(connection: Connection, new: NewJob) -> list[tuple[Target, Condition]]:
    """What the job is to wait for.

    Raises:
        NotFound, UsageError: it is not there.
    """
    return list({resolve(connection, text): condition for text, condition in new.after}.items())


def add_inserted(
    connection: Connection, new: NewJob, after: Sequence[tuple[Target, Condition]], which: ColumnElement[bool]
) -> None:
    """Add all that belongs to jobs whose rows have just been inserted, as many as there are, in a statement each."""
    for source in new.sources:
        keep(connection, source)
    for target, condition in after:
        table, column = (set_dependencies, "after_set_id") if target.is_set else (dependencies, "after_id")
        rows = select(jobs.c.id, literal(target.id), literal(condition, String)).where(which)
        connection.execute(insert(table).from_select(["job_id", column, "condition"], rows))
    record_all(connection, "submitted", "submitted", which, actor=new.user, to_state=jobs.c.state)


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
    return connection.execute(select(jobs.c.id).where(jobs.c.state == JobState.QUEUED).limit(1)).first() is not None


def has_waiting(connection: Connection) -> bool:
    """Whether any job waits, held or not."""
    return connection.execute(select(jobs.c.id).where(jobs.c.state.in_(WAITING_JOBS)).limit(1)).first() is not None


def count_queued(connection: Connection, *, user: str | None = None, tag: str | None = None) -> int:
    """How many jobs of a user, or with a tag, wait."""
    waiting = select(jobs.c.user, jobs.c.tags_json).where(jobs.c.state.in_(WAITING_JOBS))
    found = connection.execute(waiting)
    return sum(row.user == user if tag is None else tag in json.loads(row.tags_json) for row in found)


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
