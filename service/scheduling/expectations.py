"""Expectations: when each waiting job is likely to start, by the ends that are expected now.

Jobs are given the devices that are free first, in their order and without overtaking: backfill makes most of them start
sooner, jobs that are submitted later with a higher priority make them start later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace

from .planning import Plan
from .pools import Cluster
from .rows import Selector, WaitingJob
from .spanning import part_counts

_Heap = list[tuple[float, int]]


def expected_starts(plan: Plan, contenders: Iterable[WaitingJob]) -> dict[int, float]:
    """When each of these jobs (in their order) may start; one that hangs on an unknown end is missing."""
    timetable = _Timetable(plan)
    found = {}
    for job in contenders:
        start_at = timetable.enter(job, plan.snapshot.now)
        if start_at < math.inf:
            found[job.id] = start_at
    return found


class _Timetable:
    """When each device of each worker is free."""

    def __init__(self, plan: Plan) -> None:
        self._cluster: Cluster = plan.cluster
        now, ends = plan.snapshot.now, plan.ends
        self._free_at: list[dict[int, float]] = []
        self._devices = {}
        for free, taken in zip(self._cluster.free, self._cluster.taken, strict=True):
            moments = {device.id: now for device in free}
            moments |= {device.id: ends.get(job_id, math.inf) for device, job_id in taken.values()}
            self._free_at.append(moments)
            self._devices.update({device.id: device for device in free})
            self._devices.update({device.id: device for device, _job_id in taken.values()})
        # For each number of devices of a selector: when each worker has so many. Old entries are known by their moment.
        self._heaps: dict[tuple[Selector, int, bool], list[_Heap]] = {}

    def enter(self, job: WaitingJob, now: float) -> float:
        """Give the job the devices that are free first; returns from when."""
        ways = [
            self._first(heap, job.selector, job.num_devices // num_parts, num_parts)
            for num_parts in part_counts(job)
            for heap in self._heaps_for(job.selector, job.num_devices // num_parts, apart=job.may_span)
        ]
        chosen = min(filter(None, ways), key=lambda way: (max(way)[0], len(way)), default=None)
        if chosen is None:
            return math.inf
        start_at = max(max(chosen)[0], now)
        until = math.inf if job.duration_s is None else start_at + job.duration_s
        for _moment, worker in chosen:
            for device_id in self._ranked(worker, job.selector)[: job.num_devices // len(chosen)]:
                self._free_at[worker][device_id] = until
        return start_at

    def _first(self, heap: _Heap, selector: Selector, size: int, num_parts: int) -> list[tuple[float, int]]:
        """The workers that have so many devices first, each on another node; empty if that is never."""
        chosen: dict[str, tuple[float, int]] = {}
        aside = []
        while heap and len(chosen) < num_parts:
            moment, worker = heap[0]
            if moment != (current := self._moment(worker, selector, size)):
                heapreplace(heap, (current, worker))
                continue
            if moment == math.inf:
                break
            aside.append(heappop(heap))
            chosen.setdefault(self._cluster.workers[worker].node if num_parts > 1 else "", aside[-1])
        for entry in aside:
            heappush(heap, entry)
        return list(chosen.values()) if len(chosen) == num_parts else []

    def _heaps_for(self, selector: Selector, size: int, *, apart: bool) -> list[_Heap]:
        """The workers that can ever have so many devices; with `apart`, those of each kind in a heap of their own."""
        heaps = self._heaps.get((selector, size, apart))
        if heaps is None:
            able = [worker for worker, number in self._cluster.pool(selector).capacity.items() if number >= size]
            kinds = self._cluster.by_kind(able) if apart else [able]
            heaps = [[(self._moment(worker, selector, size), worker) for worker in kind] for kind in kinds]
            for heap in heaps:
                heapify(heap)
            self._heaps[selector, size, apart] = heaps
        return heaps

    def _moment(self, worker: int, selector: Selector, num_devices: int) -> float:
        return self._free_at[worker][self._ranked(worker, selector)[num_devices - 1]]

    def _ranked(self, worker: int, selector: Selector) -> list[int]:
        """The devices that would do, those that are free first."""
        free_at = self._free_at[worker]
        ids = [one for one in free_at if not selector.is_about_devices or selector.accepts(self._devices[one])]
        return sorted(ids, key=lambda one: (free_at[one], one))
