"""Runs: one execution of a job each. How they are created, claimed, fenced and moved; how they end is `ends.py`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from dljobs.errors import DljobsError, StaleToken

from . import leases, statements
from .clock import now, read_now
from .database import update_each
from .events import record, record_each
from .failures import FailureClass
from .jobs import Move, get_job, move_locked
from .parts import HEAD, add_parts
from .scheduling.rows import Placed
from .sizes import show_size
from .spec import JobSpec
from .statements import Row, in_batches
from .states import LIVE_RUNS, RUN_TRANSITIONS, JobState, RunState
from .tables import jobs, run_parts, runs


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `failure` None is success."""

    failure: FailureClass | None
    reason: str
    error: dict[str, Any] | None = None  # rank, exception, message, file, line, traceback of the first rank that failed
    result: dict[str, Any] | None = None
    was_refused: bool = False  # a check of its devices kept it from starting
    evidence: dict[str, Any] | None = None  # what the class was judged by: exits, errors, stacks


@dataclass(frozen=True)
class RunKey:
    """What a writer for a run must show: its id and the token of its lease."""

    run_id: int
    token: str


def create_runs(
    connection: Connection, placed: Sequence[Placed], lease_s: float, *, claimed_by: int | None = None
) -> dict[int, RunKey]:
    """Give queued jobs a run each on the devices of their parts: run, leases and the job's move, all or nothing.

    Args:
        claimed_by: the worker that dispatches; its parts are claimed at once.

    Returns:
        The runs, by job; without those of jobs that are no longer queued, for which nothing was changed.
    """
    wanted = select(jobs.c.id, jobs.c.state, jobs.c.num_runs).where(jobs.c.id.in_([each.job_id for each in placed]))
    # In their order, so that two who lock many wait for each other instead of for ever.
    locked = connection.execute(wanted.order_by(jobs.c.id).with_for_update()).all()
    numbers = {row.id: row.num_runs + 1 for row in locked if row.state == JobState.QUEUED}
    new = [each for each in placed if each.job_id in numbers]
    if not new:
        return {}
    moment = read_now(connection)
    rows = [
        {"job_id": each.job_id, "number": numbers[each.job_id], "state": RunState.STARTING}
        | {"worker_id": each.parts[0].worker_id, "num_devices": len(each.device_ids), "token": leases.new_token()}
        | {"created_at": moment, "claimed_at": moment if each.parts[0].worker_id == claimed_by else None}
        for each in new
    ]
    tokens = {row["job_id"]: row["token"] for row in rows}
    made = connection.execute(insert(runs).returning(runs.c.id, runs.c.job_id), rows)
    keys = {row.job_id: RunKey(row.id, tokens[row.job_id]) for row in made}
    add_parts(connection, {keys[each.job_id].run_id: each.parts for each in new}, moment, claimed_by)
    leases.acquire(connection, [_lease(keys[each.job_id], each) for each in new], moment, lease_s)
    moves = [
        Move(
            each.job_id,
            JobState.QUEUED,
            JobState.STARTING,
            f"run {numbers[each.job_id]} placed on {_show_devices(each)}",
            keys[each.job_id].run_id,
            {"num_runs": numbers[each.job_id]},
        )
        for each in new
    ]
    move_locked(connection, moves, moment, actor="scheduler")
    return keys


def _lease(key: RunKey, placed: Placed) -> leases.NewLease:
    sharer = placed.sharer
    part = {"percent": sharer.percent, "memory_bytes": sharer.memory_bytes} if sharer else {}
    return leases.NewLease(key.run_id, key.token, placed.parts, **part)


def _show_devices(placed: Placed) -> str:
    where = f" of {len(placed.parts)} nodes" if len(placed.parts) > 1 else ""
    return show_size(len(placed.device_ids), placed.sharer.percent if placed.sharer else 100) + where


def claim(connection: Connection, key: RunKey, worker_id: int) -> bool:
    """Claim this worker's part of a starting run. False, and nothing changed, unless all of these fit, once."""
    starting = (runs.c.id == key.run_id, runs.c.token == key.token, runs.c.state == RunState.STARTING)
    if connection.execute(select(runs.c.id).where(*starting).with_for_update()).scalar_one_or_none() is None:
        return False
    mine = (run_parts.c.run_id == key.run_id, run_parts.c.worker_id == worker_id, run_parts.c.claimed_at.is_(None))
    claimed = update(run_parts).where(*mine).values(claimed_at=now()).returning(run_parts.c.node_rank)
    node_rank = connection.execute(claimed).scalar_one_or_none()
    if node_rank == HEAD:
        connection.execute(update(runs).where(runs.c.id == key.run_id).values(claimed_at=now()))
    return node_rank is not None


def unclaimed_keys(connection: Connection, worker_id: int) -> list[RunKey]:
    """Runs with a part placed on this worker that waits for it: its doorbell may be lost."""
    part = (run_parts.c.worker_id == worker_id, run_parts.c.ended_at.is_(None), run_parts.c.claimed_at.is_(None))
    waiting = select(runs.c.id, runs.c.token).join(run_parts).where(*part, runs.c.state == RunState.STARTING)
    return [RunKey(row.id, row.token) for row in connection.execute(waiting)]


def fenced_update(connection: Connection, key: RunKey, **values: Any) -> None:
    """Write to the run's row, which also locks it until the transaction ends. Call it before other writes for the run.

    Raises:
        StaleToken: the run is over or its token is another: the whole transaction must be undone.
    """
    live = (runs.c.id == key.run_id, runs.c.token == key.token, runs.c.state.in_(LIVE_RUNS))
    changed = connection.execute(update(runs).where(*live).values(**(values or {"token": key.token}))).rowcount
    if changed != 1:
        raise StaleToken(f"run {key.run_id} no longer belongs to this worker")


def mark_running(connection: Connection, key: RunKey, *, actor: str) -> None:
    """All ranks of the run have started."""
    fenced_update(connection, key)
    run = get_run(connection, key.run_id)
    job = get_job(connection, run["job_id"], lock=True)
    begin_runs(connection, [run], {job["id"]: job}, read_now(connection), actor=actor)


def begin_runs(
    connection: Connection,
    starting: Sequence[RowMapping],
    job_of: Mapping[int, RowMapping],
    moment: float,
    *,
    actor: str,
) -> None:
    """The ranks of these runs have started; their rows and those of their jobs are locked."""
    run_moves, job_moves = [], []
    for run in starting:
        job, changes = job_of[run["job_id"]], {"started_at": moment}
        run_moves.append(RunMove(run, RunState(run["state"]), RunState.RUNNING, "all ranks started", changes))
        first = changes if job["started_at"] is None else {}
        reason = f"run {run['number']} is training"
        job_moves.append(Move(job["id"], JobState(job["state"]), JobState.RUNNING, reason, run["id"], first))
    move_runs(connection, run_moves, moment, actor=actor)
    move_locked(connection, job_moves, moment, actor=actor)


def record_late_return(connection: Connection, run_id: int, *, actor: str) -> None:
    """Leave in the history what became of the ranks of a run that had ended while its worker was cut off."""
    run = get_run(connection, run_id)
    reason = f"run {run['number']} had ended ({run['reason']}): its ranks on {actor} were killed"
    record(connection, "run", reason, actor=actor, job_id=run["job_id"], run_id=run_id)


def request_checkpoint(connection: Connection, job_id: int, *, actor: str) -> RowMapping:
    """Ask the job's live run for a checkpoint; the job goes on. Returns the run's row.

    Raises:
        DljobsError: it does not train now.
    """
    job = get_job(connection, job_id, lock=True)
    run = latest_run(connection, job_id)
    if run is None or run["state"] not in LIVE_RUNS:
        raise DljobsError(f"job {job_id} is {job['state']}: only a job that trains can write a checkpoint")
    if JobSpec.from_json(job["spec_json"]).kind != "train":
        raise DljobsError(f"job {job_id} does not train: it has nothing to write a checkpoint of")
    asked = update(runs).where(runs.c.id == run["id"]).values(checkpoint_requested_at=now()).returning(runs)
    record(connection, "checkpoint", f"{actor} asked for a checkpoint", actor=actor, job_id=job_id, run_id=run["id"])
    return connection.execute(asked).mappings().one()


def answer_checkpoint_request(connection: Connection, key: RunKey, up_to: float) -> None:
    """Requests up to that moment have their checkpoint, or the loud line in the log that there was no room for it."""
    fenced_update(connection, key)
    asked = (runs.c.id == key.run_id, runs.c.checkpoint_requested_at <= up_to)
    connection.execute(update(runs).where(*asked).values(checkpoint_requested_at=None))


@dataclass(frozen=True)
class RunMove:
    """Where a run (a row) goes that the caller has locked; `values` are for other columns."""

    run: RowMapping
    was: RunState
    to: RunState
    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)


def move_run(
    connection: Connection, run_id: int, to: RunState, *, actor: str, reason: str, **values: Any
) -> RowMapping:
    """Move a run to state `to`, with `values` for its other columns, and record it. Returns the row as it was."""
    run = connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()).mappings().one()
    move_runs(connection, [RunMove(run, RunState(run["state"]), to, reason, values)], read_now(connection), actor=actor)
    return run


def move_runs(connection: Connection, moves: Sequence[RunMove], moment: float, *, actor: str) -> None:
    """As `move_run`, of many runs at one moment of the database's clock.

    Raises:
        DljobsError: the table of transitions does not allow one of them; nothing was changed.
    """
    changes, told = {}, []
    for move in moves:
        run_id = move.run["id"]
        if move.to not in RUN_TRANSITIONS[move.was]:
            raise DljobsError(f"run {run_id} is {move.was}: it cannot become {move.to}")
        ended = {} if move.to in LIVE_RUNS else {"ended_at": moment}
        changes[run_id] = {"state": move.to, "reason": move.reason, **move.values, **ended}
        about = {"job_id": move.run["job_id"], "run_id": run_id, "worker_id": move.run["worker_id"]}
        states = {"from_state": move.was, "to_state": move.to}
        told.append({"kind": "run", "actor": actor, "at": moment, "reason": move.reason, **states, **about})
    update_each(connection, runs, changes)
    record_each(connection, told)


def get_run(connection: Connection, run_id: int) -> RowMapping:
    """The run's row."""
    return connection.execute(select(runs).where(runs.c.id == run_id)).mappings().one()


def jobs_of(connection: Connection, run_ids: Sequence[int]) -> list[Row]:
    """The rows of the jobs of these runs, each with its run's `run_id` and `run_number`."""
    query = (
        "SELECT jobs.*, runs.id AS run_id, runs.number AS run_number "
        "FROM runs JOIN jobs ON jobs.id = runs.job_id WHERE runs.id IN :run_ids"
    )
    return statements.rows(connection, query, run_ids=tuple(run_ids))


def list_runs(connection: Connection, job_ids: Sequence[int]) -> list[RowMapping]:
    """All runs of these jobs, of each in their order."""
    found: list[RowMapping] = []
    for ids in in_batches(job_ids):
        of_jobs = select(runs).where(runs.c.job_id.in_(ids))
        found += connection.execute(of_jobs.order_by(runs.c.job_id, runs.c.number)).mappings()
    return found


def latest_run(connection: Connection, job_id: int) -> RowMapping | None:
    """The job's newest run, ended or not; None before its first."""
    query = select(runs).where(runs.c.job_id == job_id).order_by(runs.c.number.desc()).limit(1)
    return connection.execute(query).mappings().one_or_none()


def latest_runs(connection: Connection, job_ids: Sequence[int]) -> dict[int, RowMapping]:
    """As `latest_run`, by job; one without a run is missing."""
    newest = (runs.c.job_id == jobs.c.id) & (runs.c.number == jobs.c.num_runs)
    found: dict[int, RowMapping] = {}
    for ids in in_batches(job_ids):
        rows = connection.execute(select(runs).join(jobs, newest).where(jobs.c.id.in_(ids))).mappings()
        found.update((row["job_id"], row) for row in rows)
    return found


def live_runs_of(connection: Connection, worker_id: int) -> list[RowMapping]:
    """The live runs of which this worker has a part that has not ended, and whether their job is to end.

    With their job's `cancel_requested_at` and `prune_reason`.
    """
    query = (
        select(runs, jobs.c.cancel_requested_at, jobs.c.prune_reason)
        .join(jobs, jobs.c.id == runs.c.job_id)
        .join(run_parts, run_parts.c.run_id == runs.c.id)
        .where(run_parts.c.worker_id == worker_id, run_parts.c.ended_at.is_(None), runs.c.state.in_(LIVE_RUNS))
    )
    return list(connection.execute(query).mappings())
