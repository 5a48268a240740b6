"""The simulator: discrete events around the scheduler. Jobs of a trace arrive, are placed by its plans, and end.

It keeps the cluster between plans and gives devices back as jobs end; all decisions are `planning.plan_on`'s. A job
that is preempted has checkpointed at that moment, so all it has done is kept; what it loses is the time until it trains
again, `RESTART_S` of its next run.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
RESTART_S = 30.0  # of a run that resumes: to start, and to load the checkpoint


class Estimates(StrEnum):
    """What the scheduler is told of how long jobs will run."""

    EXACT = "exact"
    TRACE = "trace"  # the column time_s
    NONE = "none"


# The service's own policy, and two others to compare it with: strict order, and EASY backfill in order of submission.
POLICIES: dict[str, Policy] = {
    "fifo": Policy(fair_share=False, backfill=False, align_ends=False, preemption=False, ageing_s=math.inf),
    "backfill": Policy(fair_share=False, backfill=True, align_ends=False, preemption=False, ageing_s=math.inf),
    "dljobs": Policy(),
}


@dataclass(frozen=True, slots=True)
class Interval:
    """One run of a job: a job that was preempted has several."""

    job_id: int
    start: float
    end: float
    held: float  # devices; of one that was shared, its part
    lost_s: float = 0.0  # of it, before it did anything new
    is_preempted: bool = False


@dataclass
class Record:
    """What became of the jobs of a trace; a job that no node can hold never starts.

    Args:
        starts: when each job started for the first time, by id.
        ends: when it ended.
        held: how many devices it had, of several runs in the last; of one that was shared, its part.
        intervals: all runs, in the order of their ends.
        plan_s: the wall time of each plan that considered anything.
    """

    jobs: Sequence[TraceJob]
    num_devices: int
    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    held: dict[int, float] = field(default_factory=dict)
    intervals: list[Interval] = field(default_factory=list)
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


@dataclass(frozen=True, slots=True)
class _Run:
    """A job that runs: what the scheduler is told of it, and what it is not."""

    job: RunningJob
    placed: Placed
    waited: WaitingJob  # as which it goes back in the queue
    end_at: float
    restart_s: float


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
        self._running: dict[int, _Run] = {}
        self._ends: list[tuple[float, int]] = []  # of runs that were preempted, too
        self._left: dict[int, float] = {}  # of jobs that were preempted: the part of their work that is still to do
        self._shares = _Shares(HALF_LIFE_S)
        self._record = Record(jobs, num_nodes * node_size)
        self._node_size = node_size
        is_any = policy.preemptible_below > 0 or any(job.is_preemptible for job in jobs)
        self._has_preemptible = policy.preemption and is_any

    def run(self) -> Record:
        """Let all jobs arrive and end."""
        arrivals = iter([job for job in self._record.jobs if job.size.min_devices <= self._node_size])
        arriving = next(arrivals, None)
        while arriving is not None or self._running:
            now = min(self._next_end(), arriving.submit_s if arriving else math.inf)
            while self._next_end() <= now:
                self._end(heappop(self._ends)[1], now)
            while arriving is not None and arriving.submit_s <= now:
                self._submit(arriving)
                arriving = next(arrivals, None)
            # Devices that a preempted job had, beyond those that were wanted, are for others.
            while (self._may_start() or self._may_preempt()) and self._plan(now):
                pass
        return self._record

    def _next_end(self) -> float:
        while self._ends and not self._is_current(*self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def _is_current(self, end_at: float, job_id: int) -> bool:
        run = self._running.get(job_id)
        return run is not None and run.end_at == end_at

    def _may_start(self) -> bool:
        """Whether anything that waits is as small as the largest gap; else the plan could only preempt."""
        if self._sizes and min(self._sizes) <= self._pool.most_free():
            return True
        return self._num_shares > 0 and self._cluster.shared.has_room

    def _may_preempt(self) -> bool:
        if not self._has_preemptible or not self._waiting:
            return False
        above = max(job.priority for job in self._waiting.values())
        return any(run.job.priority < above for run in self._running.values())

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

    def _plan(self, now: float) -> bool:
        """Carry out one plan; whether it preempted anybody."""
        begun = time.perf_counter()
        usage = self._shares.at(now) if self._policy.fair_share else {}
        running = [run.job for run in self._running.values()]
        snapshot = Snapshot(now, list(self._waiting.values()), self._cluster.workers, running, usage)
        decided = plan_on(self._cluster, snapshot, self._policy)
        self._record.plan_s.append(time.perf_counter() - begun)
        for victim in decided.preempted:
            self._preempt(victim.job_id, now)
        for each in decided.placed:
            self._start(each, now)
        for job_id, kept in decided.kept.items():  # nobody leaves later than at once
            self._start(Placed(job_id, kept.parts), now)
        return bool(decided.preempted)

    def _start(self, placed: Placed, now: float) -> None:
        job, size = self._waiting.pop(placed.job_id), self._jobs[placed.job_id].size
        self._sizes[job.num_devices] -= 1
        if not self._sizes[job.num_devices]:
            del self._sizes[job.num_devices]
        self._num_shares -= size.share_percent < 100
        num_devices, restart_s = len(placed.device_ids), RESTART_S if job.id in self._left else 0.0
        end_at = now + restart_s + self._left.get(job.id, 1.0) * self._jobs[job.id].duration_on(num_devices)
        told_end_at = None if job.duration_s is None else now + job.duration_s
        if self._estimates is Estimates.EXACT:
            told_end_at = end_at
        running = RunningJob(
            job.id, num_devices, job.user, (), told_end_at, size.share_percent, None, job.priority, job.submitted_at,
            started_at=now, is_preemptible=self._jobs[job.id].is_preemptible, was_preempted=job.id in self._left,
        )  # fmt: skip
        self._running[job.id] = _Run(running, placed, job, end_at, restart_s)
        heappush(self._ends, (end_at, job.id))
        held = running.size_percent / 100
        self._shares.hold(job.user, held, now)
        self._record.starts.setdefault(job.id, now)
        self._record.ends[job.id], self._record.held[job.id] = end_at, held

    def _end(self, job_id: int, now: float) -> None:
        run = self._leave(job_id, now, is_preempted=False)
        for part in run.placed.parts:
            if run.placed.sharer is not None:
                self._cluster.leave(part.worker_id - 1, part.device_ids[0], job_id)
            else:
                self._cluster.give_back(part.worker_id - 1, part.device_ids)

    def _preempt(self, job_id: int, now: float) -> None:
        """The job goes back in the queue with what it has done; the plan has already given away what was wanted."""
        run = self._leave(job_id, now, is_preempted=True)
        for part in run.placed.parts:
            taken = self._cluster.taken[part.worker_id - 1]
            unwanted = [device_id for device_id in part.device_ids if taken[device_id][1] == job_id]
            self._cluster.give_back(part.worker_id - 1, unwanted)
        whole_s = self._jobs[job_id].duration_on(run.job.num_devices)
        done_s = max(now - run.job.started_at - run.restart_s, 0.0)
        self._left[job_id] = self._left.get(job_id, 1.0) - (done_s / whole_s if whole_s else 1.0)
        told = run.waited.duration_s
        if self._estimates is Estimates.EXACT:
            told = RESTART_S + self._left[job_id] * self._jobs[job_id].duration_on(run.waited.num_devices)
        self._waiting[job_id] = replace(run.waited, duration_s=told)
        self._sizes[run.waited.num_devices] += 1

    def _leave(self, job_id: int, now: float, *, is_preempted: bool) -> _Run:
        run = self._running.pop(job_id)
        held, lasted_s = run.job.size_percent / 100, now - run.job.started_at
        lost_s = min(run.restart_s, lasted_s)
        self._record.intervals.append(Interval(job_id, run.job.started_at, now, held, lost_s, is_preempted))
        self._shares.hold(run.job.user, -held, now)
        return run


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
