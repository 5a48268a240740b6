"""Planning: who starts now, on what. A pure function of the snapshot; `dispatch.py` and the simulator act on it.

Jobs are considered in their order (`order.py`). One that cannot start keeps workers reserved, the first of each
selector does; those behind it may overtake it as long as that does not delay it. One that takes a range of devices
starts with what it can have now, and waits only for the least. One that preempts others has their devices kept for it
until they have gone, so that nobody comes between. Why a job waits and when it may start are computed when they are
asked for (`explaining.py`, `expectations.py`), because most plans are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

from .limits import Tally
from .order import in_order
from .pools import NOWHERE, Cluster, Pool
from .preemption import NOBODY, Preemption
from .reservations import Reservation, earliest
from .rows import (
    ANYWHERE,
    DEFAULT_POLICY,
    Part,
    Placed,
    Policy,
    Preempted,
    Selector,
    Sharer,
    Snapshot,
    WaitingJob,
)
from .sharing import SharedDevice, crowd
from .spanning import best_parts, fits, part_counts

# Each keeps a worker from being used to the full: beyond a few kinds of requests the others wait without one.
MAX_RESERVATIONS = 8
MAX_CANDIDATES = 16  # workers that are compared for a job

_Shape = tuple[Selector, int, int, bool]


@dataclass(frozen=True)
class Kept:
    """Devices that are kept for a job until those that hold some of them have gone."""

    parts: tuple[Part, ...]
    waits_for: tuple[int, ...]  # jobs

    @property
    def device_ids(self) -> tuple[int, ...]:
        """The devices of all parts."""
        return tuple(device_id for part in self.parts for device_id in part.device_ids)


class Plan:
    """What to start now, and the state that it leads to. Change nothing in it."""

    def __init__(self, snapshot: Snapshot, policy: Policy, cluster: Cluster) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.cluster = cluster
        self.placed: list[Placed] = []
        self.preempted: list[Preempted] = []
        self.kept: dict[int, Kept] = {}  # by job
        self.reserved: dict[int, Reservation] = {}  # by worker
        # So many jobs, from the first on, were considered; more than there are: any other would be, too.
        self.reach = 0
        self.tally = Tally(policy, snapshot.running, snapshot.max_parallel, snapshot.over_quota)
        self._preemption = Preemption(snapshot, policy, cluster)
        self._new_ends: dict[int, float] = {job.id: snapshot.now for job in snapshot.running if job.is_leaving}
        self._has_reserved: set[Selector] = set()
        # The shortest job of each shape that was refused: longer ones need not be looked at.
        self._refused: dict[_Shape, float] = {}
        self._refused_shares: dict[Selector, float] = {}  # likewise, by the devices that are shared
        self._can_ever_fit: dict[_Shape, bool] = {}

    @cached_property
    def ends(self) -> dict[int, float]:
        """When each job that holds devices is expected to end, what this plan starts included; infinite: unknown.

        The `crowd` of a shared device ends with the last of its jobs.
        """
        now = self.snapshot.now
        known = {job.id: job.expected_end_at for job in self.snapshot.running}
        ends = {job_id: math.inf if end_at is None else max(end_at, now) for job_id, end_at in known.items()}
        ends.update(self._new_ends)
        for device_id, shared in self.cluster.shared.devices.items():
            ends[crowd(device_id)] = max(ends.get(job_id, math.inf) for job_id in shared.sharers)
        return ends

    @cached_property
    def order(self) -> list[WaitingJob]:
        """All waiting jobs, in the order in which they are considered."""
        return in_order(self.snapshot.waiting, self.snapshot.usage, self.snapshot.now, self.policy)

    def reservations_of(self, job_id: int) -> list[Reservation]:
        """The workers that are kept for a job, one for each of its parts."""
        return [each for each in self.reserved.values() if each.job_id == job_id]

    def decide(self) -> None:
        """Place jobs, in order, until nothing more can be."""
        settled = self._honour_what_is_kept()
        if self._is_over():
            return
        now, is_limiting = self.snapshot.now, self.tally.is_limiting
        selector: Selector | None = None
        pool: Pool
        most_free, has_reserved = 0, False
        for reach, job in enumerate(self.order, 1):
            self.reach = reach
            if job.selector is not selector:
                selector = job.selector
                pool = self.cluster.pool(selector)
                most_free, has_reserved = self.cluster.most_free(pool), selector in self._has_reserved
            may_preempt = job.priority > self._preemption.above and job.num_nodes == 1 and selector.share is None
            # By far the most frequent case where thousands wait.
            may_span = job.num_nodes > 1 or job.may_spread
            if has_reserved and job.num_devices > most_free and not (may_span or may_preempt):
                continue
            if job.id in settled or not is_ready(job, now):
                continue
            if (may_span or job.num_devices > pool.largest) and not self.can_ever_fit(job, pool):
                continue
            if is_limiting and (not self.tally.allows(job) or self.tally.kept_for_others(job)):
                self._keep_limits(job)
                continue
            is_started = (may_span or job.num_devices <= most_free) and self._start(job, pool)
            if is_started or (may_preempt and self._preempt(job, pool)):
                most_free = self.cluster.most_free(pool)
            elif self.policy.backfill:
                self._reserve(job, pool)
                self._keep_limits(job)
                has_reserved = True
            else:
                return
            if self._is_over():
                return
        self.reach = len(self.order) + 1

    def went_beyond(self, job_ids: Collection[int]) -> bool:
        """Whether jobs behind one of these were considered: others behind it, had they been there, might matter."""
        return any(job.id in job_ids for job in self.order[: max(self.reach - 1, 0)])

    def _is_over(self) -> bool:
        return not self.cluster.has_room() and self._preemption.above == NOBODY

    def _honour_what_is_kept(self) -> set[int]:
        """Place the jobs whose devices are all free now, and go on keeping those of others; returns these jobs."""
        if not any(job.kept for job in self.snapshot.waiting):
            return set()
        where = self.cluster.whereabouts()
        leaving = {job.id for job in self.snapshot.running if job.is_leaving}
        for job in filter(attrgetter("kept"), self.order):
            found = [where[each] for each in job.kept if each in where]
            holders = {holder for _worker, holder in found if holder is not None}
            # A device was lost, or the job was changed since: it has its turn as any other.
            if len(found) != job.num_devices or job.num_nodes > 1 or not holders <= leaving:
                continue
            if not is_ready(job, self.snapshot.now) or not self.tally.allows(job):
                continue
            on: dict[int, list[int]] = {}
            for device_id, (worker, _holder) in zip(job.kept, found, strict=True):
                on.setdefault(worker, []).append(device_id)
            for worker, device_ids in on.items():
                self.cluster.hand_over(worker, device_ids, job.id)
            parts = tuple(Part(self.cluster.workers[worker].id, tuple(ids)) for worker, ids in on.items())
            if holders:
                self.kept[job.id] = Kept(parts, tuple(sorted(holders)))
            else:
                self.placed.append(Placed(job.id, parts))
            self._count(job)
        return {*self.kept, *(placed.job_id for placed in self.placed)}

    def _preempt(self, job: WaitingJob, pool: Pool) -> bool:
        """Keep devices for the job that others hold, and have these go."""
        found = self._preemption.find(job, pool, self.refused_for(job, job.num_devices))
        if found is None:
            return False
        self._preemption.carry_out(found, job.id)
        part = Part(self.cluster.workers[found.worker].id, found.device_ids)
        self.kept[job.id] = Kept((part,), found.waits_for)
        for victim in found.victims:
            self.preempted.append(Preempted(victim.id, job.id))
            self._expect_end(victim.id, self.snapshot.now)
        self._count(job)
        if found.worker in self.reserved:
            self.reserved[found.worker].note_taken(job.num_devices, self.end_of(job))
        return True

    def can_ever_fit(self, job: WaitingJob, pool: Pool) -> bool:
        """Whether the workers would hold the job if nothing else ran."""
        if job.num_devices <= pool.largest and job.num_nodes == 1:
            return True
        if not job.may_span:
            return False
        shape = (job.selector, job.num_devices, job.num_nodes, job.may_spread)
        if shape not in self._can_ever_fit:
            self._can_ever_fit[shape] = fits(job, self.cluster, pool.capacity)
        return self._can_ever_fit[shape]

    def _start(self, job: WaitingJob, pool: Pool) -> bool:
        """Place the job if it can be, on as many devices as it may have now."""
        if job.selector.share is not None and (shared := self._find_shared(job, pool)) is not None:
            self._join(job, shared)
            return True
        most = job.num_devices
        if job.most_devices > most:
            most = min(job.most_devices, pool.most_free(), self.tally.most_devices(job))
        for number in range(most, job.num_devices - 1, -1):
            sized = job if number == job.num_devices else replace(job, num_devices=number)
            if workers := self._find(sized, pool):
                self._place(sized, workers)
                return True
        return False

    def _find_shared(self, job: WaitingJob, pool: Pool) -> SharedDevice | None:
        duration_s = math.inf if job.duration_s is None else job.duration_s
        if duration_s >= self._refused_shares.get(job.selector, math.nan):
            return None
        shared = self.find_shared(job, pool, self.reserved)
        if shared is None:
            self._refused_shares[job.selector] = duration_s
        return shared

    def find_shared(self, job: WaitingJob, pool: Pool, reserved: Mapping[int, Reservation]) -> SharedDevice | None:
        """The shared device that a job with a share fits best, and that is not kept for others."""
        end_at, share = self.end_of(job), job.selector.share
        assert share is not None

        def is_allowed(shared: SharedDevice) -> bool:
            if shared.worker not in pool.capacity:
                return False
            kept = reserved.get(shared.worker)
            return kept is None or kept.permits_share(share, shared, end_at, self.ends[crowd(shared.device.id)])

        return next(self.cluster.shared.fitting(job.selector, is_allowed), None)

    def _find(self, job: WaitingJob, pool: Pool) -> Sequence[int]:
        """The workers for the parts of the job, mostly one; none if it cannot start."""
        duration_s = math.inf if job.duration_s is None else job.duration_s
        shape = (job.selector, job.num_devices, job.num_nodes, job.may_spread)
        if duration_s >= self._refused.get(shape, math.nan):
            return ()
        workers = self._find_permitted(job, pool)
        if not workers:
            self._refused[shape] = duration_s
        return workers

    def _find_permitted(self, job: WaitingJob, pool: Pool) -> Sequence[int]:
        if job.may_span:
            sizes = {job.num_devices // number for number in part_counts(job)} if self.reserved else ()
            return best_parts(job, self.cluster, pool, {size: self.refused_for(job, size) for size in sizes})
        worker = self._best_fit(job, pool, self.refused_for(job, job.num_devices) if self.reserved else ())
        return () if worker == NOWHERE else (worker,)

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

    def refused_for(self, job: WaitingJob, size: int) -> set[int]:
        """The workers that the job, with so many devices on each, must leave to those they are reserved for."""
        end_at = self.end_of(job)
        return {worker for worker, each in self.reserved.items() if not each.permits(size, end_at)}

    def end_of(self, job: WaitingJob) -> float:
        """When the job would end if it started now."""
        return math.inf if job.duration_s is None else self.snapshot.now + job.duration_s

    def _place(self, job: WaitingJob, workers: Sequence[int]) -> None:
        """Give the job free devices; the first of those who share one keeps the others' place."""
        end_at = self.end_of(job)
        size = job.num_devices // len(workers)
        parts, sharer = [], None
        for worker in workers:
            if job.selector.share is None:
                device_ids = self.cluster.take(worker, job.selector, size, job.id)
            else:
                device, sharer = self.cluster.take_share(worker, job.selector, job.id)
                device_ids = (device.id,)
                self._refused_shares.clear()  # there is one more
            parts.append(Part(self.cluster.workers[worker].id, device_ids))
            if worker in self.reserved:
                self.reserved[worker].note_taken(size, end_at)
        self.placed.append(Placed(job.id, tuple(parts), sharer))
        self._count(job)

    def _join(self, job: WaitingJob, shared: SharedDevice) -> None:
        """Put the job onto a device that others are on."""
        share, device, end_at = job.selector.share, shared.device, self.end_of(job)
        assert share is not None
        if (kept := self.reserved.get(shared.worker)) is not None:
            kept.note_shared(share, shared, end_at, self.ends[crowd(device.id)])
        sharer = Sharer(job.id, share.percent, share.memory_on(device))
        self.cluster.join(shared.worker, device, sharer)
        part = Part(self.cluster.workers[shared.worker].id, (device.id,))
        self.placed.append(Placed(job.id, (part,), sharer))
        self._count(job)

    def _count(self, job: WaitingJob) -> None:
        """The job has its devices, or will have them in a moment."""
        self.tally.add(job)
        self._expect_end(job.id, self.end_of(job))
        if job.selector.share is not None and "ends" in self.__dict__:
            everyone = crowd(self.placed[-1].device_ids[0])
            self.ends[everyone] = max(self.end_of(job), self.ends.get(everyone, -math.inf))

    def _expect_end(self, job_id: int, end_at: float) -> None:
        self._new_ends[job_id] = end_at
        if "ends" in self.__dict__:
            self.ends[job_id] = end_at

    def _keep_limits(self, job: WaitingJob) -> None:
        """Those behind a job that has waited for long take nothing more of what it needs within its limits."""
        if self.snapshot.now - job.submitted_at >= self.policy.ageing_s:
            self.tally.keep_room(job)

    def _reserve(self, job: WaitingJob, pool: Pool) -> None:
        if job.selector in self._has_reserved:
            return
        self._has_reserved.add(job.selector)
        if len({each.job_id for each in self.reserved.values()}) < MAX_RESERVATIONS:
            found = earliest(job, pool, self.cluster, self.ends, self.reserved)
            self.reserved |= {each.worker: each for each in found}


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
