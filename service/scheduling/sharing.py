"""Sharing: the devices that several small jobs are on, how much of each is left, and which one a job fits best.

It knows no order, no priorities and no time. Whole devices are the pools' affair (`pools.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .rows import OfferedDevice, Selector, Share, Sharer

Stay = tuple[float, Sharer]  # until when a job is on a device, and what it has of it


def crowd(device_id: int) -> int:
    """What stands for all who share a device where otherwise a job's id stands: negative, as no job's is."""
    return ~device_id


@dataclass(slots=True)
class SharedDevice:
    """A device with the jobs that are on it; its worker is named by its index in the cluster."""

    worker: int
    device: OfferedDevice
    sharers: dict[int, Sharer] = field(default_factory=dict)  # by job

    @property
    def room(self) -> Sharer:
        """What is left of it, as if for a job 0."""
        return room_of(self.device, self.sharers.values())


def room_of(device: OfferedDevice, sharers: Iterable[Sharer]) -> Sharer:
    """What these jobs leave of a device, as if for a job 0."""
    percent, memory_bytes = 100, device.memory_bytes or 0
    for each in sharers:
        percent, memory_bytes = percent - each.percent, memory_bytes - each.memory_bytes
    return Sharer(0, percent, memory_bytes)


def room_in_time(device: OfferedDevice, now: float, stays: Iterable[Stay]) -> Iterator[tuple[float, Sharer]]:
    """What is left of a device now, and from each moment on at which some of its jobs end."""
    leaving = sorted(stays, key=lambda stay: (stay[0], stay[1].job_id))
    yield now, room_of(device, [each for _end_at, each in leaving])
    for number, (end_at, _sharer) in enumerate(leaving, start=1):
        if number == len(leaving) or leaving[number][0] > end_at:
            yield end_at, room_of(device, [each for _end_at, each in leaving[number:]])


def is_enough(room: Sharer, share: Share, device: OfferedDevice) -> bool:
    """Whether what is left of a device will do."""
    return share.percent <= room.percent and share.memory_on(device) <= room.memory_bytes


class SharedDevices:
    """All shared devices of a cluster."""

    def __init__(self) -> None:
        self.devices: dict[int, SharedDevice] = {}
        # By the percent that are left: the ids of devices, ascending.
        self._by_room: list[list[int]] = [[] for _ in range(101)]

    @property
    def has_room(self) -> bool:
        """Whether anything is left of any of them."""
        return len(self._by_room[0]) < len(self.devices)

    def add(self, worker: int, device: OfferedDevice, sharer: Sharer) -> None:
        """A job comes onto a device."""
        shared = self.devices.get(device.id)
        if shared is None:
            shared = self.devices[device.id] = SharedDevice(worker, device)
        else:
            self._forget(shared)
        shared.sharers[sharer.job_id] = sharer
        insort(self._by_room[max(shared.room.percent, 0)], device.id)

    def remove(self, device_id: int, job_id: int) -> bool:
        """A job leaves a device; whether it was the last."""
        shared = self.devices[device_id]
        self._forget(shared)
        del shared.sharers[job_id]
        if not shared.sharers:
            del self.devices[device_id]
            return True
        insort(self._by_room[max(shared.room.percent, 0)], device_id)
        return False

    def fitting(self, selector: Selector, is_allowed: Callable[[SharedDevice], bool]) -> Iterator[SharedDevice]:
        """The devices that have the share to spare, the best fit first: those with the least left over."""
        share = selector.share
        assert share is not None, "whole devices are not shared"
        for ids in self._by_room[share.percent :]:
            for device_id in ids:
                shared = self.devices[device_id]
                does_fit = selector.accepts(shared.device) and is_enough(shared.room, share, shared.device)
                if does_fit and is_allowed(shared):
                    yield shared

    def _forget(self, shared: SharedDevice) -> None:
        ids = self._by_room[max(shared.room.percent, 0)]
        del ids[bisect_left(ids, shared.device.id)]
