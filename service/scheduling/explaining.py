"""Explaining: every reason why a job waits, worst first, and how many are ahead of it.

It reads the state that a plan has led to, so that what it says holds once the plan has been carried out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from heapq import merge
from itertools import islice

from dljobs.service.durations import show_duration

from .planning import Plan, is_ready
from .pools import NOWHERE, Pool
from .reasons import SEVERITY, Reason, ReasonCode
from .reservations import Reservation
from .rows import ANYWHERE, Condition, Dependency, Selector, WaitingJob

MOST_NAMED = 5


class Explainer:
    """Why the jobs of one plan wait."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._now = plan.snapshot.now
        self._cluster = plan.cluster
        self._best_workers: dict[Selector, str] = {}

    def reasons(self, job_id: int) -> list[Reason]:
        """All reasons of one job; none if the plan starts it, or if it does not wait."""
        position = self._positions.get(job_id)
        if position is None or job_id in self._placed:
            return []
        job = self._plan.order[position]
        reasons = [*self._own(job), *self._workers(job, self._pool(job))]
        reasons += [Reason(ReasonCode.LIMIT, words) for words in self._plan.tally.objections(job)]
        if job.num_devices <= self._pool(job).largest:
            reasons += self._competition(job, position)
        return sorted(reasons, key=lambda reason: SEVERITY[reason.code])

    def place(self, job_id: int) -> int | None:
        """The job's place in the queue, from 1, among those that wait for devices; None for one that does not."""
        position = self._positions.get(job_id)
        if position is None or job_id not in self._contender_ids:
            return None
        return sum(bisect_left(positions, position) for positions in self._contenders.values()) + 1

    @cached_property
    def contenders(self) -> list[WaitingJob]:
        """The jobs that wait only for devices, in their order."""
        return [job for job in self._plan.order if job.id in self._contender_ids]

    def before(self, job_id: int) -> list[WaitingJob]:
        """The jobs that are considered before this one, whatever they wait for."""
        return self._plan.order[: self._positions[job_id]]

    @cached_property
    def _placed(self) -> set[int]:
        return {placed.job_id for placed in self._plan.placed}

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {job.id: position for position, job in enumerate(self._plan.order)}

    @cached_property
    def _contenders(self) -> dict[Selector, list[int]]:
        """Positions of the contenders by selector, ascending."""
        # A job with a reservation is one even if others of its user have filled a limit since: it does keep devices.
        reserved = {each.job_id for each in self._plan.reserved.values()}
        found: dict[Selector, list[int]] = {}
        for position, job in enumerate(self._plan.order):
            if job.id in self._placed or not is_ready(job, self._now):
                continue
            if job.num_devices <= self._pool(job).largest and (self._plan.tally.allows(job) or job.id in reserved):
                found.setdefault(job.selector, []).append(position)
        return found

    @cached_property
    def _contender_ids(self) -> set[int]:
        return {self._plan.order[each].id for positions in self._contenders.values() for each in positions}

    def _pool(self, job: WaitingJob) -> Pool:
        return self._cluster.pool(job.selector)

    def _own(self, job: WaitingJob) -> list[Reason]:
        reasons = [_dependency(job, each) for each in job.after if not each.is_met]
        if job.held:
            reasons.append(Reason(ReasonCode.HELD, f"it is held; let it go with `dljobs release {job.id}`"))
        if job.begin_at is not None and job.begin_at > self._now:
            text = f"it is to begin in {show_duration(job.begin_at - self._now)}, not before"
            reasons.append(Reason(ReasonCode.BEGIN_TIME, text))
        if job.eligible_at is not None and job.eligible_at > self._now:
            text = f"its last run failed; it is tried again in {show_duration(job.eligible_at - self._now)}"
            reasons.append(Reason(ReasonCode.BACKOFF, text))
        return reasons

    def _workers(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """The reasons for which no worker will do, whoever else is there."""
        if not self._cluster.workers:
            return [Reason(ReasonCode.NO_WORKERS, "no worker takes work now; start one with `dljobs worker`")]
        shut = [*self._drained(job, pool), *self._quarantined(job, pool)]
        if not shut and job.num_devices > pool.largest:
            return [Reason(ReasonCode.NEVER_FITS, _never_fits(job, pool))]
        return shut

    def _drained(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """A drained node that would help."""
        if not any(worker.drained is not None for worker in self._cluster.workers):
            return []
        shut = self._cluster.drained_pool(job.selector)
        needed = {worker for worker, capacity in shut.capacity.items() if capacity >= job.num_devices}
        drained = sorted(worker for worker in needed if shut.free[worker] >= job.num_devices) or sorted(needed)
        if job.num_devices <= pool.largest:  # told only if it would help now
            fits_now = job.num_devices <= pool.most_free()
            drained = [] if fits_now else [w for w in drained if shut.free[w] >= job.num_devices]
        if not drained:
            return []
        worker = self._cluster.workers[drained[0]]
        more = f" (and {len(drained) - 1} more)" if len(drained) > 1 else ""
        why = f": {worker.drained}" if worker.drained else ""
        text = f"node {worker.node or worker.name} would have the devices{more} but is drained{why}"
        return [Reason(ReasonCode.NODE_DRAINED, text)]

    def _quarantined(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """Devices in quarantine with which the job would fit."""
        if job.num_devices <= pool.most_free():
            return []
        # Of what there is no room for at all, who holds the devices does not matter.
        is_too_large = job.num_devices > pool.largest
        rest = pool.capacity if is_too_large else pool.free
        for worker, offering in enumerate(self._cluster.workers):
            if offering.drained is not None or not job.selector.allows(offering):
                continue
            lost = [each for each in offering.devices if each.quarantined is not None and job.selector.accepts(each)]
            lost = sorted((each for each in lost if is_too_large or each.job_id is None), key=lambda each: each.id)
            if lost and rest.get(worker, 0) + len(lost) >= job.num_devices:
                are = "is" if len(lost) == 1 else "are"
                text = f"{_devices(len(lost))} of {offering.name} {are} quarantined: {lost[0].quarantined}"
                return [Reason(ReasonCode.QUARANTINED, f"{text} (`dljobs gpu list`)")]
        return []

    def _competition(self, job: WaitingJob, position: int) -> list[Reason]:
        """Too few free devices, and who comes first."""
        pool, plan = self._pool(job), self._plan
        ahead = self._ahead(job, position)
        refused = {}
        if plan.policy.backfill:
            mine = plan.refused_for(job)
            refused = {
                worker: each
                for worker, each in plan.reserved.items()
                if worker in mine and self._positions[each.job_id] < position
            }
        fits_somewhere = job.num_devices <= pool.most_free()
        fits = fits_somewhere and pool.best_fit(job.num_devices, refused) != NOWHERE
        if fits and (plan.policy.backfill or not ahead):
            return []
        reasons = []
        if not fits_somewhere:
            reasons.append(Reason(ReasonCode.RESOURCES, self._too_few_free(job, pool, is_next=not ahead)))
        if ahead:
            in_its_way = next((each for worker, each in refused.items() if pool.free.get(worker, 0)), None)
            text = _others_ahead(ahead) + (self._kept(job, pool, in_its_way) if in_its_way and fits_somewhere else "")
            reasons.append(Reason(ReasonCode.PRIORITY, text))
        return reasons

    def _ahead(self, job: WaitingJob, position: int) -> Ahead:
        """The contenders that come first and want some of the same workers."""
        mine = self._pool(job).capacity.keys()
        number, first = 0, []
        for selector, positions in self._contenders.items():
            is_rival = selector == job.selector or not mine.isdisjoint(self._cluster.pool(selector).capacity)
            if is_rival or not self._plan.policy.backfill:
                before = bisect_left(positions, position)
                number += before
                first.append(positions[: min(before, MOST_NAMED)])
        return Ahead(number, [self._plan.order[each].id for each in islice(merge(*first), MOST_NAMED)])

    def _too_few_free(self, job: WaitingJob, pool: Pool, *, is_next: bool) -> str:
        text = f"it needs {_devices(job.num_devices)}{_such(job.selector)}; {self._best_worker(pool)}"
        reservation = self._plan.reservation_of(job.id)
        if reservation is not None and reservation.start_at < math.inf:
            name = self._cluster.workers[reservation.worker].name
            text += f"; {name} is kept for it and has enough in about {self._in(reservation)}"
        if is_next and pool.most_free():
            text += f"; it would fit now with --gpus {pool.most_free()}"
        return text

    def _best_worker(self, pool: Pool) -> str:
        """The worker with most free devices, and who holds the others; the same for all jobs of a selector."""
        text = self._best_workers.get(pool.selector)
        if text is None:
            number = pool.most_free()
            best = min(worker for worker, free in pool.free.items() if free == number)
            text = f"the best worker, {self._cluster.workers[best].name}, has {number} free"
            if holders := sorted(set(self._cluster.holders(best, pool.selector))):
                text += f" (held by job{'s' if len(holders) > 1 else ''} {_listed(holders)}{self._next_end(holders)})"
            self._best_workers[pool.selector] = text
        return text

    def _next_end(self, holders: Sequence[int]) -> str:
        end_at, job_id = min((self._plan.ends.get(job_id, math.inf), job_id) for job_id in holders)
        if end_at == math.inf:
            return ""
        which = "which" if len(holders) == 1 else f"job {job_id}"
        return f"; {which} ends in about {show_duration(end_at - self._now)}"

    def _kept(self, job: WaitingJob, pool: Pool, reservation: Reservation) -> str:
        name = self._cluster.workers[reservation.worker].name
        free = pool.free[reservation.worker]
        text = f"; the {_devices(free)} free on {name} {'is' if free == 1 else 'are'} kept for job {reservation.job_id}"
        if reservation.start_at < math.inf:
            text += f", which starts in about {self._in(reservation)}: a job that ends before can run there"
            text += " (--time)" if job.duration_s is None else ""
        return text

    def _in(self, reservation: Reservation) -> str:
        return show_duration(reservation.start_at - self._now)


class Ahead:
    """The jobs that come before another."""

    def __init__(self, number: int, first_ids: Sequence[int]) -> None:
        self.number = number
        self.first_ids = first_ids

    def __bool__(self) -> bool:
        return self.number > 0


def _dependency(job: WaitingJob, dependency: Dependency) -> Reason:
    other = dependency.job_id
    wanted = {Condition.OK: "succeed", Condition.FAIL: "fail", Condition.ANY: "end"}[dependency.condition]
    if not dependency.is_hopeless:
        return Reason(ReasonCode.DEPENDENCY, f"it waits for job {other} to {wanted}")
    done = "did not succeed" if dependency.condition is Condition.OK else "succeeded"
    cure = f"`dljobs retry {other}` or " if dependency.condition is Condition.OK else ""
    text = f"it waits for job {other} to {wanted}, which {done}; {cure}`dljobs cancel {job.id}`"
    return Reason(ReasonCode.DEPENDENCY_NEVER_SATISFIED, text)


def _never_fits(job: WaitingJob, pool: Pool) -> str:
    if job.selector == ANYWHERE:
        return f"it needs {_devices(job.num_devices)} on one worker; the largest worker has {pool.largest}"
    most = f"the most that one worker has is {pool.largest}" if pool.largest else "no worker has any"
    return f"it needs {_devices(job.num_devices)} on one worker{_such(job.selector)}; {most}"


def _others_ahead(ahead: Ahead) -> str:
    are = "job is" if ahead.number == 1 else "jobs are"
    return f"{ahead.number} {are} ahead ({_listed(ahead.first_ids, ahead.number)})"


def _such(selector: Selector) -> str:
    return "" if selector == ANYWHERE else f" ({selector})"


def _devices(number: int) -> str:
    return f"{number} device{'s' if number > 1 else ''}"


def _listed(ids: Sequence[int], number: int | None = None) -> str:
    shown = ", ".join(map(str, ids[:MOST_NAMED]))
    return f"{shown}, …" if (len(ids) if number is None else number) > MOST_NAMED else shown
