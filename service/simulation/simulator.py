"""The simulator: discrete events around the scheduler. Jobs of a trace arrive, are placed by its plans, and end.

It keeps the cluster between plans and gives devices back as jobs end; all decisions are `planning.plan_on`'s.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from heapq import heappop, heappush

from dljobs.service.scheduling.planning import plan_on
from dljobs.service.scheduling.pools import Cluster
from dljobs.service.scheduling.rows import (
    ANYWHERE,
    OfferedDevice,
    OfferingWorker,
    Placed,
    Policy,
    RunningJob,
    Selector,
    Share,
    Snapshot,
    WaitingJob,
)

from .trace import TraceJob

HALF_LIFE_S = 7 * 86400.0


class Estimates(StrEnum):
    """What the scheduler is told of how long jobs will run."""

    EXACT = "exact"
    TRACE = "trace"  # the column time_s
    NONE = "none"


# The service's own policy, and two others to compare it with: strict order, and EASY backfill in order of submission.
POLICIES: dict[str, Policy] = {
    "fifo": Policy(fair_share=False, backfill=False, align_ends=False, ageing_s=math.inf),
    "backfill": Policy(fair_share=False, backfill=True, align_ends=False, ageing_s=math.inf),
    "dljobs": Policy(),
}


@dataclass
class Record:
    """What became of the jobs of a trace; a job that no node can hold never starts.

    Args:
        starts: when each job started, by id.
        ends: when it ended.
        held: how many devices it had; of one that was shared, its part.
        plan_s: the wall time of each plan that considered anything.
    """

    jobs: Sequence[TraceJob]
    num_devices: int
    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    held: dict[int, float] = field(default_factory=dict)
    plan_s: list[float] = field(default_factory=list)


class _Shares:
    """Each user's decayed device-seconds, brought up to date when they change."""

    def __init__(self, half_life_s: float) -> None:
        self._rate = math.log(2) / half_life_s
        self._used: dict[str, tuple[float, float, float]] = {}  # device-seconds, as of, devices held since

    def hold(self, user: str, num_devices: float, now: float) -> None:
        """The user holds so many more devices, or fewer."""
        held = self._used.get(user, (0.0, now, 0.0))[2]
        self._used[user] = (self._at(user, now), now, held + num_devices)

    def at(self, now: float) -> dict[str, float]:
        """Everybody's."""
        return {user: self._at(user, now) for user in self._used}

    def _at(self, user: str, now: float) -> float:
        used, since, held = self._used.get(user, (0.0, now, 0.0))
        kept = math.exp(-self._rate * (now - since))
        return used * kept + held * (1 - kept) / self._rate


class Simulator:
    """One trace on one cluster under one policy."""

    def __init__(
        self, jobs: Sequence[TraceJob], *, num_nodes: int, node_size: int, policy: Policy, estimates: Estimates
    ) -> None:
        self._cluster = make_cluster(num_nodes, node_size)
        self._pool = self._cluster.pool(ANYWHERE)
        self._policy = policy
        self._estimates = estimates
        self._jobs = {job.id: job for job in jobs}
        self._waiting: dict[int, WaitingJob] = {}
        self._sizes: Counter[int] = Counter()  # of those that wait: the least that they need
        self._num_shares = 0  # of those that wait for a part of a device
        self._running: dict[int, tuple[RunningJob, Placed]] = {}
        self._ends: list[tuple[float, int]] = []
        self._shares = _Shares(HALF_LIFE_S)
        self._record = Record(jobs, num_nodes * node_size)
        self._node_size = node_size

    def run(self) -> Record:
        """Let all jobs arrive and end."""
        arrivals = iter([job for job in self._record.jobs if job.size.min_devices <= self._node_size])
        arriving = next(arrivals, None)
        while arriving is not None or self._ends:
            now = min(self._ends[0][0] if self._ends else math.inf, arriving.submit_s if arriving else math.inf)
            while self._ends and self._ends[0][0] <= now:
                self._end(heappop(self._ends)[1], now)
            while arriving is not None and arriving.submit_s <= now:
                self._submit(arriving)
                arriving = next(arrivals, None)
            if self._may_start():
                self._plan(now)
        return self._record

    def _may_start(self) -> bool:
        """Whether anything that waits is as small as the largest gap; else the plan would be empty."""
        if self._sizes and min(self._sizes) <= self._pool.most_free():
            return True
        return self._num_shares > 0 and self._cluster.shared.has_room

    def _submit(self, job: TraceJob) -> None:
        size = job.size
        longest = job.duration_on(size.min_devices)
        told = {Estimates.EXACT: longest, Estimates.TRACE: job.time_s, Estimates.NONE: None}[self._estimates]
        self._sizes[size.min_devices] += 1
        self._num_shares += size.share_percent < 100
        self._waiting[job.id] = WaitingJob(
            job.id,
            size.min_devices,
            job.priority,
            job.submit_s,
            job.user,
            selector=_selector(size.share_percent),
            duration_s=told,
            most_devices=min(size.num_devices, self._node_size),
        )

    def _plan(self, now: float) -> None:
        begun = time.perf_counter()
        usage = self._shares.at(now) if self._policy.fair_share else {}
        running = [job for job, _placed in self._running.values()]
        snapshot = Snapshot(now, list(self._waiting.values()), self._cluster.workers, running, usage)
        placed = plan_on(self._cluster, snapshot, self._policy).placed
        self._record.plan_s.append(time.perf_counter() - begun)
        for each in placed:
            self._start(each, now)

    def _start(self, placed: Placed, now: float) -> None:
        job, size = self._waiting.pop(placed.job_id), self._jobs[placed.job_id].size
        self._sizes[job.num_devices] -= 1
        if not self._sizes[job.num_devices]:
            del self._sizes[job.num_devices]
        self._num_shares -= size.share_percent < 100
        num_devices = len(placed.device_ids)
        end_at = now + self._jobs[job.id].duration_on(num_devices)
        told_end_at = None if job.duration_s is None else now + job.duration_s
        if self._estimates is Estimates.EXACT:
            told_end_at = end_at
        running = RunningJob(job.id, num_devices, job.user, (), told_end_at, size.share_percent)
        self._running[job.id] = (running, placed)
        heappush(self._ends, (end_at, job.id))
        held = running.size_percent / 100
        self._shares.hold(job.user, held, now)
        self._record.starts[job.id], self._record.ends[job.id], self._record.held[job.id] = now, end_at, held

    def _end(self, job_id: int, now: float) -> None:
        job, placed = self._running.pop(job_id)
        for part in placed.parts:
            if placed.sharer is not None:
                self._cluster.leave(part.worker_id - 1, part.device_ids[0], job_id)
            else:
                self._cluster.give_back(part.worker_id - 1, part.device_ids)
        self._shares.hold(job.user, -job.size_percent / 100, now)


@cache
def _selector(share_percent: int) -> Selector:
    """One object for each share, which makes comparing cheap."""
    return ANYWHERE if share_percent == 100 else Selector(share=Share(share_percent))


def make_cluster(num_nodes: int, node_size: int) -> Cluster:
    """Idle nodes of so many devices; worker number n has index n - 1."""
    workers = []
    for node in range(num_nodes):
        devices = tuple(OfferedDevice(node * node_size + number) for number in range(node_size))
        workers.append(OfferingWorker(node + 1, f"node{node + 1}", devices, f"node{node + 1}"))
    return Cluster(workers)
