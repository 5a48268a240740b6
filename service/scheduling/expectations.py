"""Expectations: when each waiting job is likely to start, by the ends that are expected now.

Jobs are given the devices that are free first, in their order and without overtaking: backfill makes most of them start
sooner, jobs that are submitted later with a higher priority make them start later. Jobs of a set that may have no more
of them running have their turn as others of it end, and behind those of all others: they keep no device free till then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace

from .planning import Plan
from .pools import Cluster
from .rows import OfferedDevice, Selector, Sharer, WaitingJob
from .sharing import Stay, is_enough, room_in_time
from .spanning import part_counts

_Heap = list[tuple[float, int]]


def expected_starts(plan: Plan, waiting: Iterable[WaitingJob]) -> dict[int, float]:
    """When each of these jobs (in their order) may start; one that hangs on an unknown end is missing."""
    timetable, turns, now = _Timetable(plan), _Turns(plan), plan.snapshot.now
    found = dict.fromkeys(plan.kept, now)  # as soon as the others have gone
    for job in waiting:
        if turns.put_off(job):
            continue
        found[job.id] = start_at = timetable.enter(job, now)
        turns.note_end(job, _end(job, start_at))
    while (turn := turns.next()) is not None:
        turn_at, job = turn
        found[job.id] = start_at = timetable.enter(job, max(turn_at, now))
        turns.note_end(job, _end(job, start_at))
    return {job_id: start_at for job_id, start_at in found.items() if start_at < math.inf}


class _Turns:
    """When each set whose parallel jobs are limited may start another one."""

    def __init__(self, plan: Plan) -> None:
        self._now = plan.snapshot.now
        self._reserved = {each.job_id for each in plan.reserved.values()}  # these do keep devices
        of_set: dict[int, list[float]] = {set_id: [] for set_id in plan.snapshot.max_parallel}
        started = {*plan.kept, *(placed.job_id for placed in plan.placed)}
        placed = [job for job in plan.snapshot.waiting if job.id in started] if of_set else []
        holding = [(job.set_id, job.id) for job in plan.snapshot.running] + [(job.set_id, job.id) for job in placed]
        for set_id, job_id in holding:
            if set_id in of_set:
                of_set[set_id].append(plan.ends.get(job_id, math.inf))
        # Of each set a heap of when its places are free: with more running than may, the first to end free none.
        self._places: dict[int, list[float]] = {}
        for set_id, most in plan.snapshot.max_parallel.items():
            ends = sorted(of_set[set_id])[-most:]
            self._places[set_id] = [self._now] * (most - len(ends)) + ends
        self._put_off: dict[int, deque[WaitingJob]] = {}

    def put_off(self, job: WaitingJob) -> bool:
        """Whether the job has to wait for others of its set; one that has not takes a place."""
        if job.set_id not in self._places or job.id in self._reserved:
            return False
        if job.set_id not in self._put_off and self._places[job.set_id][0] <= self._now:
            return False
        self._put_off.setdefault(job.set_id, deque()).append(job)
        return True

    def next(self) -> tuple[float, WaitingJob] | None:
        """The job that was put off whose turn comes first, and when that is; None: nobody knows of any."""
        set_id = min(self._put_off, key=lambda each: (self._places[each][0], each), default=None)
        if set_id is None or self._places[set_id][0] == math.inf:
            return None
        job = self._put_off[set_id].popleft()
        if not self._put_off[set_id]:
            del self._put_off[set_id]
        return self._places[set_id][0], job

    def note_end(self, job: WaitingJob, end_at: float) -> None:
        """A job has its times: the next of its set comes after it."""
        if job.set_id in self._places:
            places = self._places[job.set_id]
            heapreplace(places, max(end_at, places[0]))


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
        self._shared = _Shared(plan)
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
        whole_at = math.inf if chosen is None else max(chosen)[0]
        if job.selector.share is not None and (shared := self._shared.first(job.selector)) and shared[0] <= whole_at:
            return self._join(job, shared[1], max(shared[0], now))
        if chosen is None:
            return math.inf
        start_at = max(whole_at, now)
        for _moment, worker in chosen:
            for device_id in self._ranked(worker, job.selector)[: job.num_devices // len(chosen)]:
                self._shared.close(device_id)
                self._free_at[worker][device_id] = _end(job, start_at)
                if job.selector.share is not None:
                    self._shared.open(worker, self._devices[device_id])
                    self._join(job, device_id, start_at)
        return start_at

    def _join(self, job: WaitingJob, device_id: int, start_at: float) -> float:
        free_at = self._free_at[self._shared.add(device_id, job, _end(job, start_at))]
        free_at[device_id] = max(free_at[device_id], _end(job, start_at))
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


class _Shared:
    """Who is on the shared devices until when."""

    def __init__(self, plan: Plan) -> None:
        self._cluster, self._now = plan.cluster, plan.snapshot.now
        self._devices: dict[int, tuple[int, OfferedDevice]] = {}  # with the worker
        self._stays: dict[int, list[Stay]] = {}
        for device_id, shared in self._cluster.shared.devices.items():
            self._devices[device_id] = shared.worker, shared.device
            self._stays[device_id] = [(plan.ends.get(job_id, math.inf), one) for job_id, one in shared.sharers.items()]
        self._heaps: dict[Selector, _Heap] = {}  # when each device has enough left; entries may be too early

    def first(self, selector: Selector) -> tuple[float, int] | None:
        """The device that has enough left first, and when; None if that is never."""
        heap = self._heaps.get(selector)
        if heap is None:
            heap = self._heaps[selector] = []
            for device_id in self._stays:
                self._enter(selector, device_id)
        while heap and heap[0][0] != (moment := self._moment(heap[0][1], selector)):
            heapreplace(heap, (moment, heap[0][1]))
        return heap[0] if heap and heap[0][0] < math.inf else None

    def open(self, worker: int, device: OfferedDevice) -> None:
        """A device that was given away as a whole is shared from now on."""
        self._devices[device.id], self._stays[device.id] = (worker, device), []
        for selector in self._heaps:
            self._enter(selector, device.id)

    def add(self, device_id: int, job: WaitingJob, until: float) -> int:
        """A job comes onto the device; returns the device's worker."""
        (worker, device), share = self._devices[device_id], job.selector.share
        assert share is not None
        self._stays[device_id].append((until, Sharer(job.id, share.percent, share.memory_on(device))))
        return worker

    def close(self, device_id: int) -> None:
        """The device is given away as a whole."""
        self._stays.pop(device_id, None)

    def _enter(self, selector: Selector, device_id: int) -> None:
        if self._devices[device_id][0] in self._cluster.pool(selector).capacity:
            heappush(self._heaps[selector], (self._moment(device_id, selector), device_id))

    def _moment(self, device_id: int, selector: Selector) -> float:
        share, device = selector.share, self._devices[device_id][1]
        assert share is not None
        if device_id not in self._stays or not selector.accepts(device):
            return math.inf
        rooms = room_in_time(device, self._now, self._stays[device_id])
        return next((at for at, room in rooms if is_enough(room, share, device)), math.inf)


def _end(job: WaitingJob, start_at: float) -> float:
    return math.inf if job.duration_s is None else start_at + job.duration_s
