"""Preemption: which running jobs go so that a more important one can start; the fewest, and of those the youngest.

A job preempts only jobs of a lower priority: both of that which was asked for, so that nobody preempts back and there
is no circle, and of the effective one that the other started with, so that what it gained by waiting is not lost again.
It knows no queue: whose turn it is, is the plan's business.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from .order import HIGHEST_PRIORITY, effective_priority
from .pools import Cluster, Pool
from .rows import Policy, RunningJob, Selector, Snapshot, WaitingJob

MAX_PREEMPTING = 32  # jobs in one plan; the others have their turn in the next
NOBODY = HIGHEST_PRIORITY + 1


def is_preemptible(job: RunningJob, now: float, policy: Policy) -> bool:
    """Whether a job of a higher priority may take its devices now; one that shares a device has none to give."""
    is_marked = job.is_preemptible or job.priority < policy.preemptible_below
    if not (is_marked and policy.preemption) or job.is_leaving or job.share_percent < 100:
        return False
    return not job.was_preempted or now - job.started_at >= policy.min_run_s


def outranks(job: WaitingJob, victim: RunningJob, now: float, policy: Policy) -> bool:
    """Whether the job may take the devices of one that is preemptible."""
    standing = effective_priority(victim, victim.started_at, policy)
    return job.priority > victim.priority and effective_priority(job, now, policy) > standing


@dataclass(frozen=True)
class Eviction:
    """What a job takes: devices of one worker, free ones and those of the jobs that have to go for it."""

    worker: int
    device_ids: tuple[int, ...]
    victims: tuple[RunningJob, ...]
    waits_for: tuple[int, ...]  # the victims, and others that are about to go


class Preemption:
    """The jobs of one plan that may be preempted, and those that already are."""

    def __init__(self, snapshot: Snapshot, policy: Policy, cluster: Cluster) -> None:
        self._now = snapshot.now
        self._policy = policy
        self._cluster = cluster
        self._victims = {job.id: job for job in snapshot.running if is_preemptible(job, snapshot.now, policy)}
        self._leaving = {job.id for job in snapshot.running if job.is_leaving}
        self._num_left = MAX_PREEMPTING
        # The most important job of each shape that found nobody: others of the shape need not look.
        self._in_vain: dict[tuple[Selector, int], int] = {}
        self.above = self._lowest()  # a job of this priority or less preempts nobody

    def find(self, job: WaitingJob, pool: Pool, refused: Container[int]) -> Eviction | None:
        """What the job may take, on the worker where the fewest jobs have to go, the youngest of all such.

        Args:
            refused: workers that are not to be chosen.
        """
        shape = (job.selector, job.num_devices)
        if job.priority <= self._in_vain.get(shape, -1):
            return None
        best: tuple[tuple[float, ...], Eviction] | None = None
        for worker, capacity in pool.capacity.items():
            if capacity < job.num_devices or worker in refused:
                continue
            found = self._evict(job, worker)
            if found is None:
                continue
            age_s = sum(self._now - victim.started_at for victim in found.victims)
            rank = (len(found.victims), age_s, pool.free[worker], worker)
            if best is None or rank < best[0]:
                best = rank, found
        if best is None:
            self._in_vain[shape] = job.priority
            return None
        return best[1]

    def carry_out(self, eviction: Eviction, job_id: int) -> None:
        """The job takes what was found for it."""
        self._cluster.hand_over(eviction.worker, eviction.device_ids, job_id)
        for victim in eviction.victims:
            del self._victims[victim.id]
            self._leaving.add(victim.id)
        self._num_left -= 1
        self.above = self._lowest()

    def _lowest(self) -> int:
        return min((job.priority for job in self._victims.values()), default=NOBODY) if self._num_left else NOBODY

    def _evict(self, job: WaitingJob, worker: int) -> Eviction | None:
        accepts = job.selector.accepts
        free = [device.id for device in self._cluster.free[worker] if accepts(device)]
        held: dict[int, list[int]] = {}
        for device, holder in self._cluster.taken[worker].values():
            if accepts(device):
                held.setdefault(holder, []).append(device.id)
        # What is about to be free anyway comes first.
        ids = [*free, *(each for holder in sorted(held) if holder in self._leaving for each in sorted(held[holder]))]
        able = [self._victims[holder] for holder in held if holder in self._victims]
        able = [victim for victim in able if outranks(job, victim, self._now, self._policy)]
        victims = fewest_and_youngest([(victim, len(held[victim.id])) for victim in able], job.num_devices - len(ids))
        if victims is None:
            return None
        ids += [each for victim in victims for each in sorted(held[victim.id])]
        taken = ids[: job.num_devices]
        waits_for = sorted(holder for holder in held if not set(held[holder]).isdisjoint(taken))
        return Eviction(worker, tuple(taken), tuple(victims), tuple(waits_for))


def fewest_and_youngest(jobs: Sequence[tuple[RunningJob, int]], num_missing: int) -> list[RunningJob] | None:
    """As few of these jobs as together free so many devices, and of all such sets the youngest; None: all do not.

    Args:
        jobs: each with the devices that it would free.
    """
    rest = sorted(jobs, key=lambda each: (-each[0].started_at, -each[0].id))
    if num_missing > sum(size for _job, size in rest):
        return None
    number = 0
    while _most(rest, number) < num_missing:
        number += 1
    chosen: list[RunningJob] = []
    while number:
        (job, size), *rest = rest
        if size + _most(rest, number - 1) >= num_missing:
            chosen.append(job)
            num_missing, number = num_missing - size, number - 1
    return chosen


def _most(jobs: Sequence[tuple[RunningJob, int]], number: int) -> int:
    """The most devices that so many of the jobs free."""
    return sum(sorted((size for _job, size in jobs), reverse=True)[:number])
