"""Shortages: what there is too little of for a job, in words: who holds it, until when, and what would fit instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dljobs.service.durations import show_duration
from dljobs.service.sizes import show_size

from .planning import Plan
from .pools import Pool
from .reasons import MOST_NAMED, listed
from .reservations import Reservation
from .rows import Selector, WaitingJob
from .spanning import first_of_each_node, fits, most_nodes


class Shortages:
    """What the jobs of one plan lack."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._now = plan.snapshot.now
        self._cluster = plan.cluster
        self._best_workers: dict[tuple[Selector, int], str] = {}

    def too_few_free(self, job: WaitingJob, pool: Pool, *, is_next: bool) -> str:
        """Why a job that would fit if others ended does not start."""
        if job.selector.share is not None:
            found = self._best_device(job, pool)
        else:
            found = self._most_free_nodes(pool) if job.may_span else self._best_worker(job, pool)
        text = f"it needs {_needed(job)}{_such(job.selector)}; {found}"
        kept = self._plan.reservations_of(job.id)
        if kept and kept[0].start_at < math.inf:
            names = _and([self._cluster.workers[each.worker].name for each in kept])
            is_kept = "are kept for it and have" if len(kept) > 1 else "is kept for it and has"
            text += f"; {names} {is_kept} enough in about {self._in(kept[0])}"
        ways = self._ways_to_fit_now(job, pool) if is_next else []
        return text + (f"; it would fit now with {' or '.join(ways)}" if ways else "")

    def never_fits(self, job: WaitingJob, pool: Pool) -> str:
        """Why a job would not start if nothing else ran."""
        if job.num_nodes > 1:
            size = job.num_devices // job.num_nodes
            number = most_nodes(self._cluster, pool.capacity, size)
            have = f"{number or 'no'} node{' has' if number < 2 else 's have'} a worker with so many"
            return f"it needs {_needed(job)}{_such(job.selector)}; {have}"
        text = f"it needs {_needed(job)}{'' if job.may_spread else ' on one worker'}{_such(job.selector)}"
        if not pool.largest:
            return f"{text}; no worker has any"
        if job.may_spread:
            smaller = (replace(job, num_devices=number) for number in range(job.num_devices - 1, 0, -1))
            most = next(each.num_devices for each in smaller if fits(each, self._cluster, pool.capacity))
            return f"{text}; the most that there is so is {most}"
        text += f"; the most that one worker has is {pool.largest}"
        if job.can_spread and fits(replace(job, may_spread=True), self._cluster, pool.capacity):
            text += "; it could run on several nodes with --spread"
        return text

    def kept_for_another(self, job: WaitingJob, pool: Pool, reservation: Reservation) -> str:
        """For whom devices that are free are kept."""
        name = self._cluster.workers[reservation.worker].name
        free = pool.free[reservation.worker]
        are = "is" if free == 1 else "are"
        text = f"; the {show_size(free)} free on {name} {are} kept for job {reservation.job_id}"
        if reservation.start_at < math.inf:
            text += f", which starts in about {self._in(reservation)}: a job that ends before can run there"
            text += " (--time)" if job.duration_s is None else ""
        return text

    def _ways_to_fit_now(self, job: WaitingJob, pool: Pool) -> list[str]:
        """What its user could have asked for instead."""
        ways: list[str] = []
        if job.selector.share is not None:
            return ways
        if job.can_spread and fits(replace(job, may_spread=True, num_nodes=1), self._cluster, pool.free):
            ways.append("--spread")
        # What divides the number asked for shares out its batch equally, too.
        size = job.num_devices // job.num_nodes
        smaller = (part for part in range(size - 1, 0, -1) if size % part == 0)
        number = next((part for part in smaller if most_nodes(self._cluster, pool.free, part) >= job.num_nodes), 0)
        most = f"-{job.most_devices}" if job.most_devices > job.num_devices else ""
        return [*ways, f"--gpus {number * job.num_nodes}{most}"] if number else ways

    def _most_free_nodes(self, pool: Pool) -> str:
        """The nodes with most free devices, by their best worker."""
        best = first_of_each_node(self._cluster, sorted(pool.free, key=lambda worker: (-pool.free[worker], worker)))
        shown = [f"{self._cluster.workers[worker].node} has {pool.free[worker]} free" for worker in best[:MOST_NAMED]]
        return f"node {', '.join(shown)}{', …' if len(best) > MOST_NAMED else ''}"

    def _best_worker(self, job: WaitingJob, pool: Pool) -> str:
        """Of the workers that could hold the job the one with most free devices, and who holds the others."""
        key = job.selector, job.num_devices
        text = self._best_workers.get(key)
        if text is None:
            able = [worker for worker, capacity in pool.capacity.items() if capacity >= job.num_devices]
            best = min(able, key=lambda worker: (-pool.free[worker], worker))
            text = f"the best worker, {self._cluster.workers[best].name}, has {pool.free[best]} free"
            holding = self._cluster.holders(best, pool.selector)
            if holders := sorted({job_id for each in holding for job_id in self._cluster.jobs_of(each)}):
                text += f" ({'the rest is ' if pool.free[best] else ''}held by {self._held_by(holders)})"
            self._best_workers[key] = text
        return text

    def _best_device(self, job: WaitingJob, pool: Pool) -> str:
        """The shared device with most left, and who is on it; no device is free."""
        shared = [
            each
            for each in self._cluster.shared.devices.values()
            if each.worker in pool.capacity and job.selector.accepts(each.device)
        ]
        if not shared:
            return "no device is free, and none is shared"
        best = max(shared, key=lambda each: (each.room.percent, each.room.memory_bytes, -each.device.id))
        left = f"{best.room.percent / 100:g}"
        if best.device.memory_bytes is not None:
            left += f" and {best.room.memory_bytes / 1e9:.3g} GB of memory"
        who = self._held_by(sorted(best.sharers))
        name = self._cluster.workers[best.worker].name
        return f"no device is free, and of the shared ones the best, on {name}, has {left} left (held by {who})"

    def _held_by(self, holders: Sequence[int]) -> str:
        """These jobs, and which of them ends first."""
        end_at, job_id = min((self._plan.ends.get(job_id, math.inf), job_id) for job_id in holders)
        text = f"job{'s' if len(holders) > 1 else ''} {listed(holders)}"
        if end_at == math.inf:
            return text
        which = ", which" if len(holders) == 1 else f"; job {job_id}"
        return f"{text}{which} ends in about {show_duration(end_at - self._now)}"

    def _in(self, reservation: Reservation) -> str:
        return show_duration(reservation.start_at - self._now)


def _needed(job: WaitingJob) -> str:
    if job.num_nodes > 1:
        return f"{show_size(job.num_devices)} on {job.num_nodes} nodes, {job.num_devices // job.num_nodes} each"
    if job.selector.share is not None:
        return f"{job.selector.share.percent / 100:g} of a device"
    if job.most_devices > job.num_devices:
        return f"at least {show_size(job.num_devices)} ({job.num_devices}-{job.most_devices} were asked for)"
    return show_size(job.num_devices) + (", on one node or in equal parts on several" if job.may_spread else "")


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _such(selector: Selector) -> str:
    wishes = str(selector)
    return f" ({wishes})" if wishes else ""
