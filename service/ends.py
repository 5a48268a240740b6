"""Ends: how runs end, and what becomes of their jobs; many at a time cost little more than one.

`take_notices` is the only place where the end of a run decides what becomes of its job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from dljobs.errors import StaleToken

from . import leases, ledger
from .clock import read_now
from .durations import show_duration
from .failures import LOST, WITHIN_RETRIES, FailureClass, decide
from .jobs import Move, move_locked
from .json_text import to_json
from .pages import add_scores
from .parts import end_parts
from .runs import Outcome, RunMove, begin_runs, move_runs
from .scheduling.usage import Spell
from .states import LIVE_RUNS, JobState, RunState
from .tables import artifacts, jobs, runs, workers

_RUN_COLUMNS = ("id", "job_id", "number", "state", "token", "worker_id", "num_devices", "created_at")
_RUNS = select(*(runs.c[name] for name in (*_RUN_COLUMNS, "preempted_for_id")))
_JOB_COLUMNS = ("id", "user", "state", "share_percent", "started_at", "cancel_requested_at", "prune_reason")
_COUNTS = ("num_retries", "max_retries", "num_lost", "num_preempted")
_JOBS = select(*(jobs.c[name] for name in (*_JOB_COLUMNS, *_COUNTS)))


@dataclass(frozen=True)
class Notice:
    """What is to be written of a run, by its worker or by the sweep.

    Args:
        outcome: how it ended; None: it goes on.
        token: the worker's token; None for the sweep, which ends runs whose worker is gone.
        has_started: all its ranks have started, which may have been said before.
        write_rest: what else is to be written, and only if the run is still the worker's.
    """

    run_id: int
    outcome: Outcome | None
    token: str | None = None
    has_started: bool = False
    write_rest: Callable[[Connection], object] | None = None


def end_run(connection: Connection, run_id: int, outcome: Outcome, *, actor: str, token: str | None = None) -> JobState:
    """End one run, as `take_notices` does; returns its job's new state.

    Raises:
        StaleToken: the run has already ended, or the token is not its own; nothing was changed.
    """
    found = take_notices(connection, [Notice(run_id, outcome, token)], actor=actor)
    if run_id not in found:
        raise stale(run_id)
    return found[run_id]


def stale(run_id: int) -> StaleToken:
    """What a worker is told that ends a run which is no longer its own."""
    return StaleToken(f"run {run_id} has already ended or belongs to another worker")


def take_notices(connection: Connection, notices: Sequence[Notice], *, actor: str) -> dict[int, JobState]:
    """Write what is said of live runs; end those that have ended, release their devices, decide on their jobs.

    It takes a few statements, however many runs there are.

    Returns:
        The states of the jobs then, by run; a run that has ended before, or whose token is another, is missing, and for
        it nothing was changed.

    Raises:
        DljobsError: one of them cannot end so: the whole transaction must be undone.
    """
    told = {notice.run_id: notice for notice in notices}
    # The runs first and each kind of row in one order, as everybody does: else two would wait for each other.
    locked = connection.execute(_RUNS.where(runs.c.id.in_(told)).order_by(runs.c.id).with_for_update()).mappings()
    live = [run for run in locked if run["state"] in LIVE_RUNS and told[run["id"]].token in (None, run["token"])]
    for run in live:
        if (write_rest := told[run["id"]].write_rest) is not None:
            write_rest(connection)
    states = {run["id"]: JobState(run["state"]) for run in live}  # those of a live run and of its job are the same
    begun = [run for run in live if run["state"] == RunState.STARTING and told[run["id"]].has_started]
    ended = [run for run in live if told[run["id"]].outcome is not None]
    if not (begun or ended):
        return states
    job_ids = {run["job_id"] for run in (*begun, *ended)}
    of_runs = _JOBS.where(jobs.c.id.in_(job_ids)).order_by(jobs.c.id).with_for_update()
    job_of = {job["id"]: job for job in connection.execute(of_runs).mappings()}
    moment = read_now(connection)
    begin_runs(connection, begun, job_of, moment, actor=actor)
    states |= dict.fromkeys((run["id"] for run in begun), JobState.RUNNING)
    found = [
        _Ended(run, job_of[run["job_id"]], outcome, states[run["id"]])
        for run in ended
        if (outcome := told[run["id"]].outcome) is not None
    ]
    return {**states, **_end_all(connection, found, moment, actor=actor)}


@dataclass(frozen=True)
class _Ended:
    """A run that ends, with its job, both locked; `was` is the state of either."""

    run: RowMapping
    job: RowMapping
    outcome: Outcome
    was: JobState


def _end_all(connection: Connection, ended: Sequence[_Ended], moment: float, *, actor: str) -> dict[int, JobState]:
    if not ended:
        return {}
    run_moves, job_moves = [], []
    for each in ended:
        decision, outcome = _decide(connection, each.job, each.run, each.outcome, moment), each.outcome
        values = {
            "decision": decision.told,
            "evidence_json": _to_json(outcome.evidence),
            "failure_class": outcome.failure,
            "error_json": _to_json(outcome.error),
            "result_json": _to_json(outcome.result),
        }
        run_moves.append(RunMove(each.run, RunState(each.was), decision.run_state, outcome.reason, values))
        to = (decision.job_state, decision.reason, each.run["id"], decision.changes)
        job_moves.append(Move(each.job["id"], each.was, *to))
    run_ids = [each.run["id"] for each in ended]
    move_runs(connection, run_moves, moment, actor=actor)
    end_parts(connection, run_ids, moment)
    leases.release(connection, run_ids, moment)
    ledger.add_spells(connection, [_spell(each.job, each.run, moment) for each in ended])
    add_scores(connection, {each.job["id"]: each.outcome.result or {} for each in ended if not each.outcome.failure})
    move_locked(connection, job_moves, moment, actor=actor)
    return {run_id: move.to for run_id, move in zip(run_ids, job_moves, strict=True)}


def _spell(job: RowMapping, run: RowMapping, moment: float) -> Spell:
    """What a run that ends now has had."""
    num_devices = run["num_devices"] * job["share_percent"] / 100
    return Spell(job["user"], (moment - run["created_at"]) * num_devices, run["created_at"], moment)


@dataclass(frozen=True)
class _Decision:
    """What follows from a run's end."""

    run_state: RunState
    job_state: JobState
    reason: str  # why the job is in its new state
    told: str  # what was decided on the job, for the run's row
    changes: dict[str, Any]  # other columns of the job


def _decide(connection: Connection, job: RowMapping, run: RowMapping, outcome: Outcome, moment: float) -> _Decision:
    failure = outcome.failure
    if failure is None:
        done = {"result_json": _to_json(outcome.result), "failure_class": None}
        return _Decision(RunState.SUCCEEDED, JobState.SUCCEEDED, outcome.reason, "", done)
    if job["cancel_requested_at"] is not None:
        asked = {"failure_class": FailureClass.CANCELLED}
        return _Decision(RunState.CANCELLED, JobState.CANCELLED, outcome.reason, "cancelled: somebody asked", asked)
    if job["prune_reason"] is not None:
        pruned = {"failure_class": FailureClass.PRUNED}
        why = "pruned: it fell behind the other trials of its set"
        return _Decision(RunState.CANCELLED, JobState.CANCELLED, job["prune_reason"], why, pruned)
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
        return _Decision(RunState.FAILED, JobState.FAILED, reason, decision, {**changes, "failure_class": failure})
    how = "for free"
    if failure in WITHIN_RETRIES:
        changes["num_retries"] = job["num_retries"] + 1
        how = f"retry {changes['num_retries']} of {job['max_retries']}"
    changes["eligible_at"] = moment + verdict.delay_s if verdict.delay_s else None
    if run["preempted_for_id"] is not None:
        changes["num_preempted"] = job["num_preempted"] + 1
    decision = f"queued again, {how}" + (f", after {show_duration(verdict.delay_s)}" if verdict.delay_s else "")
    return _Decision(RunState.REQUEUED, JobState.QUEUED, f"queued again: {outcome.reason}", decision, changes)


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


def _to_json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else to_json(value)
