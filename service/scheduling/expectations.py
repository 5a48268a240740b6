"""Expectations: when each waiting job is likely to start, by the ends that are expected now.

Jobs are given the devices that are free first, in their order and without overtaking: backfill makes most of them start
sooner, jobs that are submitted later with a higher priority make them start later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from .planning import Plan
from .pools import Cluster
from .rows import Selector, WaitingJob

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
        self._heaps: dict[tuple[Selector, int], _Heap] = {}

    def enter(self, job: WaitingJob, now: float) -> float:
        """Give the job the devices that are free first; returns from when."""
        shape = (job.selector, job.num_devices)
        heap = self._heaps.get(shape)
        if heap is None:
            heap = self._heaps[shape] = [
                (self._moment(worker, *shape), worker)
                for worker, capacity in self._cluster.pool(job.selector).capacity.items()
                if capacity >= job.num_devices
            ]
            heapify(heap)
        while heap and heap[0][0] != (moment := self._moment(heap[0][1], *shape)):
            worker = heappop(heap)[1]
            heappush(heap, (moment, worker))
        if not heap or heap[0][0] == math.inf:
            return math.inf
        start_at, worker = max(heap[0][0], now), heap[0][1]
        until = math.inf if job.duration_s is None else start_at + job.duration_s
        for device_id in self._ranked(worker, job.selector)[: job.num_devices]:
            self._free_at[worker][device_id] = until
        return start_at

    def _moment(self, worker: int, selector: Selector, num_devices: int) -> float:
        return self._free_at[worker][self._ranked(worker, selector)[num_devices - 1]]

    def _ranked(self, worker: int, selector: Selector) -> list[int]:
        """The devices that would do, those that are free first."""
        free_at = self._free_at[worker]
        ids = [one for one in free_at if not selector.is_about_devices or selector.accepts(self._devices[one])]
        return sorted(ids, key=lambda one: (free_at[one], one))
