"""Dispatch: load the rows, ask the scheduler, write what it decided, in one transaction under the scheduler's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Connection

from . import jobs, ledger, preemption, runs
from .database import Database, Lock, wait_for_lock
from .policy import ServicePolicy
from .preemption import Asked
from .scheduling.expectations import expected_starts
from .scheduling.explaining import Explainer
from .scheduling.planning import Plan, plan
from .scheduling.reasons import Reason
from .scheduling.rows import Placed
from .snapshot import take_front, take_snapshot

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


class Planned:
    """The scheduler's plan for the rows as they are, and what it says to people; each thing is computed when asked."""

    def __init__(self, decided: Plan, policy: ServicePolicy) -> None:
        self.plan = decided
        self.policy = policy
        self.worker_names = {worker.id: worker.name for worker in decided.snapshot.workers}

    @property
    def placed(self) -> list[Placed]:
        """What starts now."""
        return self.plan.placed

    def reasons(self, job_id: int) -> list[Reason]:
        """Why a job waits, worst first; empty if it starts, or does not wait."""
        return self._explainer.reasons(job_id)

    def place(self, job_id: int) -> int | None:
        """A job's place in the queue, from 1, among those that wait only for devices."""
        return self._explainer.place(job_id)

    def expected_start_at(self, job_id: int) -> float | None:
        """When the job is likely to start; None: nobody knows."""
        return self._starts.get(job_id)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.plan)

    @cached_property
    def _starts(self) -> dict[int, float]:
        starts = expected_starts(self.plan, self._explainer.starters)
        return {**starts, **{placed.job_id: self.plan.snapshot.now for placed in self.plan.placed}}


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
    with database.read() as connection:
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
    """Read what a dispatch reads, though nothing waits: SQLAlchemy compiles each statement once, and not for a job."""
    with database.read() as connection:
        _plan_front(connection, lease_s=lease_s)


def make_plan(connection: Connection, *, lease_s: float, only: int | None = None) -> Planned:
    """The plan; writes nothing.

    Args:
        only: plan as if no other job waited: what stands in the way of this one whoever is before it, at a cost that
            does not grow with the queue.
    """
    snapshot, policy = take_snapshot(connection, lease_s=lease_s, only=only)
    return Planned(plan(snapshot, policy.scheduling), policy)


def _plan_front(connection: Connection, *, lease_s: float) -> Planned:
    """As `make_plan`, of no more of the queue than decides what starts: it says nothing true of those behind."""
    for length in FRONTS:
        snapshot, policy, last_ids = take_front(connection, lease_s=lease_s, length=length)
        decided = plan(snapshot, policy.scheduling)
        if not decided.went_beyond(last_ids):
            break
    return Planned(decided, policy)
