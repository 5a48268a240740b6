"""Explaining: every reason why a job waits, worst first, and how many are ahead of it.

It reads the state that a plan has led to, so that what it says holds once the plan has been carried out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from heapq import merge
from itertools import islice

from dljobs.service.durations import show_duration
from dljobs.service.sizes import show_size

from .planning import Plan, is_ready
from .pools import NOWHERE, Pool
from .reasons import MOST_NAMED, SEVERITY, Reason, ReasonCode, listed
from .reservations import Reservation
from .rows import Condition, Dependency, OfferedDevice, Selector, WaitingJob
from .shortages import Shortages
from .spanning import best_parts, fits, part_counts


class Explainer:
    """Why the jobs of one plan wait."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._now = plan.snapshot.now
        self._cluster = plan.cluster
        self._shortages = Shortages(plan)

    def reasons(self, job_id: int) -> list[Reason]:
        """All reasons of one job; none if the plan starts it, or if it does not wait."""
        position = self._positions.get(job_id)
        if position is None or job_id in self._placed:
            return []
        job = self._plan.order[position]
        if job_id in self._plan.kept:
            return [Reason(ReasonCode.RESOURCES, self._is_made_room(job_id))]
        reasons = [*self._own(job), *self._workers(job, self._pool(job))]
        reasons += [Reason(ReasonCode.LIMIT, words) for words in self._plan.tally.objections(job)]
        reasons += self._kept_within_limits(job)
        reasons += [Reason(ReasonCode.QUOTA, words) for words in self._plan.tally.quotas_used_up(job, self._now)]
        if self._plan.can_ever_fit(job, self._pool(job)):
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

    @cached_property
    def starters(self) -> list[WaitingJob]:
        """The contenders and those that wait only until fewer of their set run: all whose start can be foreseen."""
        return [job for job in self._plan.order if job.id in self._contender_ids or self._waits_for_its_set(job)]

    def _waits_for_its_set(self, job: WaitingJob) -> bool:
        tally = self._plan.tally
        if not tally.set_is_full(job) or job.id in self._placed or job.id in self._plan.kept:
            return False
        return is_ready(job, self._now) and tally.allows_user(job) and self._plan.can_ever_fit(job, self._pool(job))

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
            if job.id in self._placed or job.id in self._plan.kept or not is_ready(job, self._now):
                continue
            can_ever_fit = self._plan.can_ever_fit(job, self._pool(job))
            is_allowed = self._plan.tally.allows(job) and not self._kept_within_limits(job)
            if can_ever_fit and (is_allowed or job.id in reserved):
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

    def _kept_within_limits(self, job: WaitingJob) -> list[Reason]:
        """Whose limits have room that is kept for jobs which come first."""
        reasons = []
        for whose, other_id in self._plan.tally.kept_for_others(job).items():
            place = self._positions[other_id]
            if place < self._positions[job.id]:
                waited = show_duration(self._now - self._plan.order[place].submitted_at)
                text = f"what is left to {' '.join(whose)} is kept for job {other_id}, which has waited for {waited}"
                reasons.append(Reason(ReasonCode.LIMIT, text))
        return reasons

    def _workers(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """The reasons for which no worker will do, whoever else is there."""
        if not self._cluster.workers:
            return [Reason(ReasonCode.NO_WORKERS, "no worker takes work now; start one with `dljobs worker`")]
        shut = [*self._drained(job, pool), *self._quarantined(job, pool)]
        if not shut and not self._plan.can_ever_fit(job, pool):
            return [Reason(ReasonCode.NEVER_FITS, self._shortages.never_fits(job, pool))]
        return shut

    def _drained(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """A drained node that would help."""
        drained = self._helpful_if_not_drained(job, pool)
        if not drained:
            return []
        worker = self._cluster.workers[drained[0]]
        more = f" (and {len(drained) - 1} more)" if len(drained) > 1 else ""
        why = f": {worker.drained}" if worker.drained else ""
        text = f"node {worker.node or worker.name} would have the devices{more} but is drained{why}"
        return [Reason(ReasonCode.NODE_DRAINED, text)]

    def _quarantined(self, job: WaitingJob, pool: Pool) -> list[Reason]:
        """Devices in quarantine with which the job would fit."""
        if self._has_room(job, pool):
            return []
        # Of what there is no room for at all, who holds the devices does not matter.
        is_too_large = not self._plan.can_ever_fit(job, pool)
        lost = self._lost(job, with_held=is_too_large)
        rest = pool.capacity if is_too_large else pool.free
        room = {worker: rest.get(worker, 0) + len(lost.get(worker, ())) for worker in {*rest, *lost}}
        if not lost or not fits(job, self._cluster, room):
            return []
        worker = next(worker for worker in lost if room[worker] >= job.num_devices // part_counts(job)[-1])
        are = "is" if len(lost[worker]) == 1 else "are"
        text = f"{show_size(len(lost[worker]))} of {self._cluster.workers[worker].name} {are} quarantined"
        return [Reason(ReasonCode.QUARANTINED, f"{text}: {lost[worker][0].quarantined} (`dljobs gpu list`)")]

    def _lost(self, job: WaitingJob, *, with_held: bool) -> dict[int, list[OfferedDevice]]:
        """The devices in quarantine that would do for the job, by worker."""
        lost = {}
        for number, worker in enumerate(self._cluster.workers):
            if worker.drained is None and job.selector.allows(worker):
                shut = [d for d in worker.devices if d.quarantined is not None and job.selector.accepts(d)]
                lost[number] = sorted((d for d in shut if with_held or d.is_free), key=lambda device: device.id)
        return {number: devices for number, devices in lost.items() if devices}

    def _helpful_if_not_drained(self, job: WaitingJob, pool: Pool) -> list[int]:
        """The drained workers with which the job would fit: now, or ever if without them it never does."""
        if not any(worker.drained is not None for worker in self._cluster.workers):
            return []
        shut = self._cluster.drained_pool(job.selector)
        smallest = job.num_devices // part_counts(job)[-1]
        free = sorted(worker for worker, number in shut.free.items() if number >= smallest)
        if self._plan.can_ever_fit(job, pool):  # told only if it would help now
            helps = not self._has_room(job, pool) and fits(job, self._cluster, {**pool.free, **shut.free})
            return free if helps else []
        helps = fits(job, self._cluster, {**pool.capacity, **shut.capacity})
        return free or sorted(w for w, number in shut.capacity.items() if number >= smallest) if helps else []

    def _competition(self, job: WaitingJob, position: int) -> list[Reason]:
        """Too few free devices, and who comes first."""
        pool, plan = self._pool(job), self._plan
        ahead = self._ahead(job, position)
        refused = {}
        if plan.policy.backfill:
            refused = {size: self._refused(job, size, position) for size in _sizes(job)}
        fits_somewhere = self._has_room(job, pool)
        is_permitted = fits_somewhere and self._is_permitted(job, pool, refused, position)
        if is_permitted and (plan.policy.backfill or not ahead):
            return []
        reasons = []
        if not fits_somewhere:
            reasons.append(Reason(ReasonCode.RESOURCES, self._shortages.too_few_free(job, pool, is_next=not ahead)))
        if ahead:
            kept = refused.get(_sizes(job)[-1], {})
            in_its_way = next((each for worker, each in kept.items() if pool.free.get(worker, 0)), None)
            text = _others_ahead(ahead)
            if in_its_way and fits_somewhere:
                text += self._shortages.kept_for_another(job, pool, in_its_way)
            reasons.append(Reason(ReasonCode.PRIORITY, text))
        return reasons

    def _refused(self, job: WaitingJob, size: int, position: int) -> dict[int, Reservation]:
        """The workers that are kept for those who come first, and not free for so many devices of this job."""
        reserved, refused = self._plan.reserved, self._plan.refused_for(job, size)
        return {w: each for w, each in reserved.items() if w in refused and self._positions[each.job_id] < position}

    def _has_room(self, job: WaitingJob, pool: Pool) -> bool:
        """Whether enough is free for the job, whoever it is kept for."""
        return fits(job, self._cluster, pool.free) if job.may_span else job.num_devices <= self._cluster.most_free(pool)

    def _is_permitted(self, job: WaitingJob, pool: Pool, refused: Mapping[int, Container[int]], position: int) -> bool:
        if job.may_span:
            return bool(best_parts(job, self._cluster, pool, refused))
        if job.selector.share is not None:
            reserved = self._plan.reserved if self._plan.policy.backfill else {}
            before = {w: each for w, each in reserved.items() if self._positions[each.job_id] < position}
            if self._plan.find_shared(job, pool, before) is not None:
                return True
        return pool.best_fit(job.num_devices, refused.get(job.num_devices, ())) != NOWHERE

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

    def _is_made_room(self, job_id: int) -> str:
        kept = self._plan.kept[job_id]
        names = {worker.id: worker.name for worker in self._cluster.workers}
        where = ", ".join(names[part.worker_id] for part in kept.parts)
        one = len(kept.waits_for) == 1
        who = f"job {kept.waits_for[0]} has" if one else f"jobs {listed(kept.waits_for)} have"
        back = "checkpointed and gone back in the queue"
        return f"it is to have {show_size(len(kept.device_ids))} of {where} as soon as {who} {back}"


class Ahead:
    """The jobs that come before another."""

    def __init__(self, number: int, first_ids: Sequence[int]) -> None:
        self.number = number
        self.first_ids = first_ids

    def __bool__(self) -> bool:
        return self.number > 0


def _dependency(job: WaitingJob, dependency: Dependency) -> Reason:
    other = f"s{dependency.job_id}" if dependency.is_set else str(dependency.job_id)
    what = f"all jobs of {other}" if dependency.is_set else f"job {other}"
    wanted = {Condition.OK: "succeed", Condition.FAIL: "fail", Condition.ANY: "end"}[dependency.condition]
    if not dependency.is_hopeless:
        return Reason(ReasonCode.DEPENDENCY, f"it waits for {what} to {wanted}")
    done = "did not succeed" if dependency.condition is Condition.OK else "succeeded"
    cure = f"`dljobs retry {other}` or " if dependency.condition is Condition.OK else ""
    text = f"it waits for {what} to {wanted}, which {done}; {cure}`dljobs cancel {job.id}`"
    return Reason(ReasonCode.DEPENDENCY_NEVER_SATISFIED, text)


def _others_ahead(ahead: Ahead) -> str:
    are = "job is" if ahead.number == 1 else "jobs are"
    return f"{ahead.number} {are} ahead ({listed(ahead.first_ids, ahead.number)})"


def _sizes(job: WaitingJob) -> list[int]:
    """How many devices a part of the job may have, the most first."""
    return [job.num_devices // number for number in part_counts(job)]
