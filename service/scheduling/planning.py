"""Planning: who starts now, on what. A pure function of the snapshot; `dispatch.py` and the simulator act on it.

Jobs are considered in their order (`order.py`). One that cannot start keeps a worker reserved, the first of each
selector does; those behind it may overtake it as long as that does not delay it. Why a job waits and when it may start
are computed when they are asked for (`explaining.py`, `expectations.py`), because most plans are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Container
from functools import cached_property

from .limits import Tally
from .order import in_order
from .pools import NOWHERE, Cluster, Pool
from .reservations import Reservation, earliest
from .rows import ANYWHERE, DEFAULT_POLICY, Part, Placed, Policy, Selector, Snapshot, WaitingJob

# Each keeps a worker from being used to the full: beyond a few kinds of requests the others wait without one.
MAX_RESERVATIONS = 8
MAX_CANDIDATES = 16  # workers that are compared for a job


class Plan:
    """What to start now, and the state that it leads to. Change nothing in it."""

    def __init__(self, snapshot: Snapshot, policy: Policy, cluster: Cluster) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.cluster = cluster
        self.placed: list[Placed] = []
        self.reserved: dict[int, Reservation] = {}  # by worker
        self.tally = Tally(policy, snapshot.running)
        self._placed_ends: dict[int, float] = {}
        self._has_reserved: set[Selector] = set()
        # The shortest job of each shape that was refused: longer ones need not be looked at.
        self._refused: dict[tuple[Selector, int], float] = {}

    @cached_property
    def ends(self) -> dict[int, float]:
        """When each job that holds devices is expected to end, what this plan starts included; infinite: unknown."""
        now = self.snapshot.now
        known = {job.id: job.expected_end_at for job in self.snapshot.running}
        ends = {job_id: math.inf if end_at is None else max(end_at, now) for job_id, end_at in known.items()}
        ends.update(self._placed_ends)
        return ends

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
        now, is_limiting = self.snapshot.now, self.tally.is_limiting
        selector: Selector | None = None
        pool: Pool
        most_free, has_reserved = 0, False
        for job in self.order:
            if job.selector is not selector:
                selector = job.selector
                pool = self.cluster.pool(selector)
                most_free, has_reserved = pool.most_free(), selector in self._has_reserved
            # By far the most frequent case where thousands wait.
            if has_reserved and job.num_devices > most_free:
                continue
            if not is_ready(job, now) or (is_limiting and not self.tally.allows(job)):
                continue
            if job.num_devices > pool.largest:
                continue
            if job.num_devices <= most_free and (worker := self._find(job, pool)) != NOWHERE:
                self._place(job, worker)
                if not self.cluster.num_free:
                    return
                most_free = pool.most_free()
                continue
            if not self.policy.backfill:
                return
            self._reserve(job, pool)
            has_reserved = True

    def _find(self, job: WaitingJob, pool: Pool) -> int:
        if not self.reserved:
            return self._best_fit(job, pool, ())
        duration_s = math.inf if job.duration_s is None else job.duration_s
        shape = (job.selector, job.num_devices)
        if duration_s >= self._refused.get(shape, math.nan):
            return NOWHERE
        worker = self._best_fit(job, pool, self.refused_for(job))
        if worker == NOWHERE:
            self._refused[shape] = duration_s
        return worker

    def _best_fit(self, job: WaitingJob, pool: Pool, refused: Container[int]) -> int:
        """The worker with the smallest gap; among a few such, one that the job keeps busy no longer than it is anyway.

        So nodes fall free as a whole, which large jobs wait for.
        """
        if job.duration_s is None or not self.policy.align_ends:
            return pool.best_fit(job.num_devices, refused)
        candidates = pool.best_fits(job.num_devices, refused, MAX_CANDIDATES)
        if len(candidates) < 2:
            return candidates[0] if candidates else NOWHERE
        end_at = self.end_of(job)

        def idle_while_it_ends(worker: int) -> tuple[float, int, int]:
            busy_until = max(self.ends.get(each, math.inf) for each in self.cluster.holders(worker, ANYWHERE))
            spare = pool.capacity[worker] - job.num_devices
            return max(end_at - busy_until, 0.0) * spare, pool.free[worker], worker

        return min(candidates, key=idle_while_it_ends)

    def refused_for(self, job: WaitingJob) -> set[int]:
        """The workers that the job must leave to those they are reserved for."""
        end_at = self.end_of(job)
        return {worker for worker, each in self.reserved.items() if not each.permits(job.num_devices, end_at)}

    def end_of(self, job: WaitingJob) -> float:
        """When the job would end if it started now."""
        return math.inf if job.duration_s is None else self.snapshot.now + job.duration_s

    def _place(self, job: WaitingJob, worker: int) -> None:
        device_ids = self.cluster.take(worker, job.selector, job.num_devices, job.id)
        self.placed.append(Placed(job.id, (Part(self.cluster.workers[worker].id, device_ids),)))
        end_at = self.end_of(job)
        self._placed_ends[job.id] = end_at
        if "ends" in self.__dict__:
            self.ends[job.id] = end_at
        self.tally.add(job)
        if worker in self.reserved:
            self.reserved[worker].note_taken(job.num_devices, end_at)

    def _reserve(self, job: WaitingJob, pool: Pool) -> None:
        if job.selector in self._has_reserved:
            return
        self._has_reserved.add(job.selector)
        if len(self.reserved) < MAX_RESERVATIONS:
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
