"""Runs: one execution of a job each. How one is created, claimed, fenced, reported on and ended.

`end_run` is the only place where the end of a run decides what becomes of its job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from dljobs.errors import DljobsError, StaleToken

from . import leases, ledger
from .clock import now
from .database import in_batches
from .durations import show_duration
from .events import record
from .failures import LOST, WITHIN_RETRIES, FailureClass, decide
from .jobs import get_job, move_job
from .json_text import to_json
from .pages import add_scores
from .parts import HEAD, add_parts, end_parts
from .scheduling.rows import Part, Sharer
from .sizes import show_size
from .spec import JobSpec
from .states import LIVE_RUNS, RUN_TRANSITIONS, JobState, RunState
from .tables import artifacts, jobs, run_parts, runs, workers


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


def create_run(
    connection: Connection, job_id: int, parts: Sequence[Part], lease_s: float, sharer: Sharer | None = None
) -> RunKey:
    """Give a queued job a run on the devices of these parts: run, leases and the job's move, all or nothing.

    Args:
        sharer: what it has of its only device, where that is not all of it.

    Raises:
        DljobsError: the job is no longer queued; nothing was changed.
    """
    job = get_job(connection, job_id, lock=True)
    if job["state"] != JobState.QUEUED:
        raise DljobsError(f"job {job_id} is {job['state']}: it cannot be placed")
    token = leases.new_token()
    number = job["num_runs"] + 1
    num_devices = sum(len(part.device_ids) for part in parts)
    values = {"job_id": job_id, "number": number, "state": RunState.STARTING, "token": token}
    values |= {"worker_id": parts[0].worker_id, "num_devices": num_devices}
    created = insert(runs).values(created_at=now(), **values).returning(runs.c.id)
    run_id = int(connection.execute(created).scalar_one())
    add_parts(connection, run_id, parts)
    part = {"percent": sharer.percent, "memory_bytes": sharer.memory_bytes} if sharer else {}
    leases.acquire(connection, run_id, parts, token, lease_s, **part)
    where = f" of {len(parts)} nodes" if len(parts) > 1 else ""
    reason = f"run {number} placed on {show_size(num_devices, sharer.percent if sharer else 100)}{where}"
    move_job(connection, job_id, JobState.STARTING, actor="scheduler", reason=reason, run_id=run_id, num_runs=number)
    return RunKey(run_id, token)


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
    fenced_update(connection, key, started_at=now())
    run = move_run(connection, key.run_id, RunState.RUNNING, actor=actor, reason="all ranks started")
    values: dict[str, Any] = {}
    if get_job(connection, run["job_id"])["started_at"] is None:
        values["started_at"] = now()
    reason = f"run {run['number']} is training"
    move_job(connection, run["job_id"], JobState.RUNNING, actor=actor, reason=reason, run_id=key.run_id, **values)


def end_run(connection: Connection, run_id: int, outcome: Outcome, *, actor: str, token: str | None = None) -> JobState:
    """End a live run, release its devices and decide what becomes of its job; returns the job's new state.

    Args:
        token: the worker's token; None for the sweep, which ends runs whose worker is gone.

    Raises:
        StaleToken: the run has already ended, or the token is not its own; nothing was changed.
    """
    run = connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()).mappings().one_or_none()
    if run is None or RunState(run["state"]) not in LIVE_RUNS or token not in (None, run["token"]):
        raise StaleToken(f"run {run_id} has already ended or belongs to another worker")
    job = connection.execute(select(jobs).where(jobs.c.id == run["job_id"]).with_for_update()).mappings().one()
    end = _decide_end(connection, job, run, outcome)
    move_run(
        connection,
        run_id,
        end.run_state,
        actor=actor,
        reason=outcome.reason,
        decision=end.decision,
        evidence_json=_to_json(outcome.evidence),
        failure_class=outcome.failure,
        error_json=_to_json(outcome.error),
        result_json=_to_json(outcome.result),
    )
    end_parts(connection, run_id)
    if run["preempted_for_id"] is not None and end.job_state is JobState.QUEUED:
        end.changes["num_preempted"] = job["num_preempted"] + 1
    leases.release(connection, run_id)
    ledger.add_run(connection, run_id, job["user"], run["num_devices"] * job["share_percent"] / 100)
    move_job(connection, job["id"], end.job_state, actor=actor, reason=end.reason, run_id=run_id, **end.changes)
    return end.job_state


@dataclass(frozen=True)
class _End:
    """What follows from a run's end."""

    run_state: RunState
    job_state: JobState
    reason: str  # why the job is in its new state
    decision: str  # what was decided on the job, for the run's row
    changes: dict[str, Any]  # other columns of the job


def _decide_end(connection: Connection, job: RowMapping, run: RowMapping, outcome: Outcome) -> _End:
    failure = outcome.failure
    if failure is None:
        add_scores(connection, job["id"], outcome.result or {})
        done = {"result_json": _to_json(outcome.result), "failure_class": None}
        return _End(RunState.SUCCEEDED, JobState.SUCCEEDED, outcome.reason, "", done)
    if job["cancel_requested_at"] is not None:
        asked = {"failure_class": FailureClass.CANCELLED}
        return _End(RunState.CANCELLED, JobState.CANCELLED, outcome.reason, "cancelled: somebody asked", asked)
    if job["prune_reason"] is not None:
        pruned = {"failure_class": FailureClass.PRUNED}
        why = "pruned: it fell behind the other trials of its set"
        return _End(RunState.CANCELLED, JobState.CANCELLED, job["prune_reason"], why, pruned)
    num_lost = 0 if _has_checkpoint(connection, run["id"]) else job["num_lost"]
    verdict = decide(
        failure,
        num_retries=job["num_retries"],
        max_retries=job["max_retries"],
        num_lost=num_lost,
        was_refused=outcome.was_refused,
    )
    is_lost = failure in LOST and not outcome.was_refused
    changes: dict[str, Any] = {"num_lost": num_lost + is_lost if is_lost or outcome.was_refused else 0}
    if not verdict.requeue:
        because = verdict.because
        if failure in LOST:
            because += f": {_tell_lost(connection, job['id'], changes['num_lost'], outcome)}"
        reason = f"{outcome.reason} ({because})" if because else outcome.reason
        decision = f"the job failed: {because or 'a fault of this class is not tried again'}"
        return _End(RunState.FAILED, JobState.FAILED, reason, decision, {**changes, "failure_class": failure})
    how = "for free"
    if failure in WITHIN_RETRIES:
        changes["num_retries"] = job["num_retries"] + 1
        how = f"retry {changes['num_retries']} of {job['max_retries']}"
    changes["eligible_at"] = now() + verdict.delay_s if verdict.delay_s else None
    decision = f"queued again, {how}" + (f", after {show_duration(verdict.delay_s)}" if verdict.delay_s else "")
    return _End(RunState.REQUEUED, JobState.QUEUED, f"queued again: {outcome.reason}", decision, changes)


def _has_checkpoint(connection: Connection, run_id: int) -> bool:
    """Whether the run got somewhere: it stored a checkpoint of its own."""
    of_run = (artifacts.c.run_id == run_id, artifacts.c.kind == "checkpoint", artifacts.c.state == "complete")
    return connection.execute(select(artifacts.c.id).where(*of_run).limit(1)).first() is not None


def _tell_lost(connection: Connection, job_id: int, num: int, outcome: Outcome) -> str:
    """The last `num` runs of a job, of which the newest is ending: where each one was, and what became of it."""
    newest_first = (
        select(runs.c.number, runs.c.failure_class, workers.c.name)
        .join(workers, workers.c.id == runs.c.worker_id)
        .where(runs.c.job_id == job_id)
        .order_by(runs.c.number.desc())
        .limit(num)
    )
    rows = reversed(list(connection.execute(newest_first)))
    return ", ".join(f"run {row.number} on {row.name} ({row.failure_class or outcome.failure})" for row in rows)


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


def move_run(
    connection: Connection, run_id: int, to: RunState, *, actor: str, reason: str, **values: Any
) -> RowMapping:
    """Move a run to state `to`, with `values` for its other columns, and record it. Returns the row as it was."""
    run = connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()).mappings().one()
    was = RunState(run["state"])
    if to not in RUN_TRANSITIONS[was]:
        raise DljobsError(f"run {run_id} is {was}: it cannot become {to}")
    if to not in LIVE_RUNS:
        values["ended_at"] = now()
    connection.execute(update(runs).where(runs.c.id == run_id).values(state=to, reason=reason, **values))
    about = {"job_id": run["job_id"], "run_id": run_id, "worker_id": run["worker_id"]}
    record(connection, "run", reason, actor=actor, from_state=was, to_state=to, **about)
    return run


def get_run(connection: Connection, run_id: int) -> RowMapping:
    """The run's row."""
    return connection.execute(select(runs).where(runs.c.id == run_id)).mappings().one()


def list_runs(connection: Connection, job_ids: Sequence[int]) -> list[RowMapping]:
    """All runs of these jobs, of each in their order."""
    found: list[RowMapping] = []
    for ids in in_batches(job_ids):
        of_jobs = select(runs).where(runs.c.job_id.in_(ids))
        found += connection.execute(of_jobs.order_by(runs.c.job_id, runs.c.number)).mappings()
    return found


def list_live(connection: Connection) -> list[RowMapping]:
    """All runs that have not ended."""
    return list(connection.execute(select(runs).where(runs.c.state.in_(LIVE_RUNS))).mappings())


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


def _to_json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else to_json(value)
