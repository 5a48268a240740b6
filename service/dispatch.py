"""Dispatch: load the rows, ask the scheduler, write what it decided, in one transaction under the scheduler's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from . import jobs, ledger, preemption, runs
from .database import Database, Lock, wait_for_lock
from .planned import Planned
from .preemption import Asked
from .scheduling.planning import plan
from .snapshot import take_front

FRONTS = (32, 512, None)  # how much of each line of the queue is read, until that is enough


@dataclass(frozen=True)
class Claimant:
    """The worker that dispatches: it has what falls to it without a doorbell.

    Args:
        take: called with its runs, which are claimed already, in the transaction that places them: what it reads of
            them there cannot be lost in an outage.
    """

    worker_id: int
    take: Callable[[Connection, Sequence[runs.RunKey]], None]


@dataclass(frozen=True)
class Dispatched:
    """A part of a run that was placed: ring its worker."""

    key: runs.RunKey
    worker_name: str


def dispatch(
    database: Database,
    *,
    lease_s: float,
    notify: Callable[[Asked], object] | None = None,
    claimant: Claimant | None = None,
) -> list[Dispatched]:
    """Place what can be placed now, and have runs go for what is more important.

    Args:
        notify: called for each run that is to go, once that is written; its worker sees it by itself, but later.
        claimant: who takes its own parts at once.

    Returns:
        The parts that wait for their workers to claim them.
    """
    with database.ask() as connection:
        if not jobs.has_queued(connection):
            return []
    with database.write() as connection:
        # Waiting, not giving up: whoever holds it may have read the queue before the job at hand was committed.
        wait_for_lock(connection, Lock.SCHEDULING)
        planned = _plan_front(connection, lease_s=lease_s)
        ledger.fold(connection, planned.plan.snapshot.now, planned.policy.half_life_s)
        mine = None if claimant is None else claimant.worker_id
        # Without those that were cancelled or held since the plan was made.
        keys = runs.create_runs(connection, planned.placed, lease_s, claimed_by=mine)
        placed = [
            (keys[each.job_id], part.worker_id) for each in planned.placed if each.job_id in keys for part in each.parts
        ]
        if claimant is not None and (taken := [key for key, worker_id in placed if worker_id == mine]):
            claimant.take(connection, taken)
        asked = [each for decision in planned.plan.preempted for each in preemption.ask_to_go(connection, decision)]
        preemption.keep(connection, planned.plan.kept)
    if notify is not None:
        for each in asked:
            notify(each)
    return [Dispatched(key, planned.worker_names[worker_id]) for key, worker_id in placed if worker_id != mine]


def rehearse(database: Database, *, lease_s: float) -> None:
    """Read what a dispatch reads, though nothing waits: what it loads and prepares once is then there for a job."""
    with database.read() as connection:
        _plan_front(connection, lease_s=lease_s)


def _plan_front(connection: Connection, *, lease_s: float) -> Planned:
    """As `make_plan`, of no more of the queue than decides what starts: it says nothing true of those behind."""
    for length in FRONTS:
        snapshot, policy, last_ids = take_front(connection, lease_s=lease_s, length=length)
        decided = plan(snapshot, policy.scheduling)
        if not decided.went_beyond(last_ids):
            break
    return Planned(decided, policy)
