"""Planning: who starts now, on what. A pure function of the snapshot; `dispatch.py` and the simulator act on it.

Jobs are considered in their order (`order.py`). One that cannot start keeps a worker reserved, the first of each
selector does; those behind it may overtake it as long as that does not delay it. Why a job waits and when it may start
are computed when they are asked for (`explaining.py`, `expectations.py`), because most plans are never looked at.
"""

from __future__ import annotations

import math
from functools import cached_property

from .limits import Tally
from .order import in_order
from .pools import NOWHERE, Cluster, Pool
from .reservations import Reservation, earliest
from .rows import DEFAULT_POLICY, Placed, Policy, Selector, Snapshot, WaitingJob

# Each keeps a worker from being used to the full: beyond a few kinds of requests the others wait without one.
MAX_RESERVATIONS = 8


class Plan:
    """What to start now, and the state that it leads to. Change nothing in it."""

    def __init__(self, snapshot: Snapshot, policy: Policy, cluster: Cluster) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.cluster = cluster
        self.placed: list[Placed] = []
        self.reserved: dict[int, Reservation] = {}  # by worker
        self.tally = Tally(policy, snapshot.running)
        now = snapshot.now
        self.ends = {
            job.id: math.inf if job.expected_end_at is None else max(job.expected_end_at, now)
            for job in snapshot.running
        }
        self._has_reserved: set[Selector] = set()
        # The shortest job of each shape that was refused: longer ones need not be looked at.
        self._refused: dict[tuple[Selector, int], float] = {}

    @cached_property
    def order(self) -> list[WaitingJob]:
        """All waiting jobs, in the order in which they are considered."""
        return in_order(self.snapshot.waiting, self.snapshot.usage, self.snapshot.now, self.policy)

    def reservation_of(self, job_id: int) -> Reservation | None:
        """The worker that is kept for a job."""
        return next((each for each in self.reserved.values() if each.job_id == job_id), None)

    def decide(self) -> None:
        """Place jobs, in order, until nothing more can be."""
        if not self.cluster.num_free:
            return
        selector: Selector | None = None
        pool: Pool
        for job in self.order:
            if not (is_ready(job, self.snapshot.now) and self.tally.allows(job)):
                continue
            if job.selector is not selector:
                selector = job.selector
                pool = self.cluster.pool(selector)
            if job.num_devices > pool.largest:
                continue
            if job.num_devices <= pool.most_free() and (worker := self._find(job, pool)) != NOWHERE:
                self._place(job, worker)
                if not self.cluster.num_free:
                    return
                continue
            if not self.policy.backfill:
                return
            self._reserve(job, pool)

    def _find(self, job: WaitingJob, pool: Pool) -> int:
        if not self.reserved:
            return pool.best_fit(job.num_devices)
        duration_s = math.inf if job.duration_s is None else job.duration_s
        shape = (job.selector, job.num_devices)
        if duration_s >= self._refused.get(shape, math.nan):
            return NOWHERE
        refused = self.refused_for(job)
        worker = pool.best_fit(job.num_devices, refused)
        if worker == NOWHERE:
            self._refused[shape] = duration_s
        return worker

    def refused_for(self, job: WaitingJob) -> set[int]:
        """The workers that the job must leave to those they are reserved for."""
        end_at = self.end_of(job)
        return {worker for worker, each in self.reserved.items() if not each.permits(job.num_devices, end_at)}

    def end_of(self, job: WaitingJob) -> float:
        """When the job would end if it started now."""
        return math.inf if job.duration_s is None else self.snapshot.now + job.duration_s

    def _place(self, job: WaitingJob, worker: int) -> None:
        device_ids = self.cluster.take(worker, job.selector, job.num_devices, job.id)
        self.placed.append(Placed(job.id, self.cluster.workers[worker].id, device_ids))
        self.ends[job.id] = self.end_of(job)
        self.tally.add(job)
        if worker in self.reserved:
            self.reserved[worker].note_taken(job.num_devices, self.ends[job.id])

    def _reserve(self, job: WaitingJob, pool: Pool) -> None:
        if job.selector in self._has_reserved or len(self.reserved) == MAX_RESERVATIONS:
            return
        self._has_reserved.add(job.selector)
        found = earliest(job, pool, self.cluster, self.ends, self.reserved)
        if found is not None:
            self.reserved[found.worker] = found


def is_ready(job: WaitingJob, now: float) -> bool:
    """Whether nothing about the job itself keeps it from starting."""
    if job.held or (job.begin_at is not None and job.begin_at > now):
        return False
    if job.eligible_at is not None and job.eligible_at > now:
        return False
    return not job.after or all(each.is_met for each in job.after)


def plan(snapshot: Snapshot, policy: Policy = DEFAULT_POLICY) -> Plan:
    """Decide what starts at `snapshot.now`."""
    return plan_on(Cluster(snapshot.workers), snapshot, policy)


def plan_on(cluster: Cluster, snapshot: Snapshot, policy: Policy) -> Plan:
    """As `plan`, on a cluster that the caller keeps up to date; what is placed is taken from it."""
    decided = Plan(snapshot, policy, cluster)
    decided.decide()
    return decided
