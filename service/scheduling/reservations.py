"""Reservations: the workers that a blocked job will run on, from when, and what may use them until then.

A backfilled job may use a reserved worker if it ends in time, or on devices that the blocked job does not need. Only
expected ends are known here; without one a job is taken to run for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .pools import Cluster, Pool
from .rows import OfferedDevice, Share, Sharer, WaitingJob
from .sharing import SharedDevice, is_enough, room_in_time
from .spanning import first_of_each_node, part_counts


@dataclass
class Reservation:
    """The first blocked job's claim on a worker. `start_at` is infinite where nobody knows when enough is free.

    A job of several parts has one for each, all with the same `start_at`.
    """

    job_id: int
    worker: int
    start_at: float
    num_spare: int  # devices free at `start_at` that the job does not need

    def permits(self, num_devices: int, end_at: float) -> bool:
        """Whether a job that takes so many free devices of the worker now, until then, delays nobody."""
        return self._is_over(end_at) or num_devices <= self.num_spare

    def note_taken(self, num_devices: int, end_at: float) -> None:
        """A job took free devices of the worker."""
        if not self._is_over(end_at):
            self.num_spare -= num_devices

    def permits_share(self, share: Share, shared: SharedDevice, end_at: float, free_at: float) -> bool:
        """Whether a job that comes onto a shared device of the worker now, until then, delays nobody.

        Args:
            free_at: when the last of those who are on it ends.
        """
        return not self._keeps_busy(end_at, free_at) or self.num_spare > 0

    def note_shared(self, share: Share, shared: SharedDevice, end_at: float, free_at: float) -> None:
        """A job came onto a shared device of the worker."""
        if self._keeps_busy(end_at, free_at):
            self.num_spare -= 1

    def _is_over(self, end_at: float) -> bool:
        return end_at <= self.start_at < math.inf

    def _keeps_busy(self, end_at: float, free_at: float) -> bool:
        """Whether a device that was to be free at `start_at` will not be."""
        return free_at <= self.start_at and not self._is_over(end_at)


@dataclass
class ShareReservation(Reservation):
    """A claim on a part of a shared device; whole devices of the worker are anyone's."""

    device_id: int
    spare: Sharer  # what will be left of the device

    def permits(self, num_devices: int, end_at: float) -> bool:
        """See `Reservation.permits`: had there been a free one that would do, the job would have started."""
        return True

    def note_taken(self, num_devices: int, end_at: float) -> None:
        """See `Reservation.note_taken`."""

    def permits_share(self, share: Share, shared: SharedDevice, end_at: float, free_at: float) -> bool:
        """See `Reservation.permits_share`."""
        is_another = shared.device.id != self.device_id
        return is_another or self._is_over(end_at) or is_enough(self.spare, share, shared.device)

    def note_shared(self, share: Share, shared: SharedDevice, end_at: float, free_at: float) -> None:
        """See `Reservation.note_shared`."""
        if shared.device.id == self.device_id and not self._is_over(end_at):
            self.spare = _left(self.spare, share, shared.device)


def earliest(
    job: WaitingJob, pool: Pool, cluster: Cluster, ends: Mapping[int, float], reserved: Mapping[int, Reservation]
) -> list[Reservation]:
    """Where the job can start first, as far as the ends of jobs are known; empty: what it fits on is reserved.

    Args:
        ends: when each job that holds devices is expected to end; infinite or missing where nobody knows.
    """
    prospects = _Prospects(pool, cluster, ends, reserved)
    if job.selector.share is not None and (shared := _earliest_share(job, pool, cluster, ends, reserved)) is not None:
        whole = prospects.first(1, 1)
        if not whole or shared.start_at <= whole[0].start_at:
            return [shared]
    found = []
    for num_parts in part_counts(job):
        if chosen := prospects.first(job.num_devices // num_parts, num_parts):
            latest = max(chosen)
            found.append((latest.start_at, sum(each.num_unknown for each in chosen), num_parts, chosen))
    if not found:
        return []
    start_at, _num_unknown, num_parts, chosen = min(found)
    spare = [prospects.num_free(each.worker, start_at) - job.num_devices // num_parts for each in chosen]
    return [Reservation(job.id, each.worker, start_at, max(n, 0)) for each, n in zip(chosen, spare, strict=True)]


class _Prospect(NamedTuple):
    """When a worker has enough devices. Of those nobody knows, the one where the fewest jobs have to end comes first.

    So what is chosen never gets further away.
    """

    start_at: float
    num_unknown: int  # devices that jobs of unknown end have to give back
    worker: int


class _Prospects:
    """What becomes free where, of the workers that are not reserved."""

    def __init__(
        self, pool: Pool, cluster: Cluster, ends: Mapping[int, float], reserved: Mapping[int, Reservation]
    ) -> None:
        self._pool = pool
        self._cluster = cluster
        self._ends = ends
        self._reserved = reserved
        self._known: dict[int, list[float]] = {}  # ends of jobs, once for each device, ascending

    def first(self, size: int, num_parts: int) -> list[_Prospect]:
        """The workers that have room for a part first, each on another node; empty if there are not so many."""
        able = {w: self._when(w, size) for w, n in self._pool.capacity.items() if n >= size and w not in self._reserved}
        if num_parts == 1:
            return [min(able.values())] if able else []
        found = []
        for alike in self._cluster.by_kind(sorted(able, key=able.__getitem__)):
            chosen = [able[worker] for worker in first_of_each_node(self._cluster, alike)[:num_parts]]
            if len(chosen) == num_parts:
                found.append((chosen[-1], chosen))
        return min(found)[1] if found else []

    def num_free(self, worker: int, at: float) -> int:
        """Devices of the worker that are free at a time, as far as ends are known."""
        return self._pool.free[worker] + sum(end <= at for end in self._ends_on(worker))

    def _when(self, worker: int, size: int) -> _Prospect:
        num_missing, known = size - self._pool.free[worker], self._ends_on(worker)
        if num_missing <= 0:
            return _Prospect(-math.inf, 0, worker)
        if num_missing <= len(known):
            return _Prospect(known[num_missing - 1], 0, worker)
        return _Prospect(math.inf, num_missing - len(known), worker)

    def _ends_on(self, worker: int) -> list[float]:
        known = self._known.get(worker)
        if known is None:
            ends, holders = self._ends, self._cluster.holders(worker, self._pool.selector)
            known = sorted([ends[holder] for holder in holders if holder in ends])
            while known and known[-1] == math.inf:
                known.pop()
            self._known[worker] = known
        return known


def _earliest_share(
    job: WaitingJob, pool: Pool, cluster: Cluster, ends: Mapping[int, float], reserved: Mapping[int, Reservation]
) -> ShareReservation | None:
    share = job.selector.share
    assert share is not None
    best: tuple[tuple[float, int, int], SharedDevice, Sharer] | None = None
    for device_id, shared in cluster.shared.devices.items():
        device = shared.device
        if shared.worker not in pool.capacity or shared.worker in reserved or not job.selector.accepts(device):
            continue
        stays = [(ends.get(job_id, math.inf), each) for job_id, each in shared.sharers.items()]
        enough = ((at, room) for at, room in room_in_time(device, -math.inf, stays) if is_enough(room, share, device))
        start_at, room = next(enough, (math.inf, shared.room))
        # Of those nobody knows, the one with most room already: it never gets further away.
        rank = (start_at, -shared.room.percent if start_at == math.inf else 0, device_id)
        if best is None or rank < best[0]:
            best = rank, shared, _left(room, share, device) if start_at < math.inf else Sharer(0, 0)
    if best is None:
        return None
    (start_at, _order, device_id), shared, spare = best
    return ShareReservation(job.id, shared.worker, start_at, 0, device_id, spare)


def _left(room: Sharer, share: Share, device: OfferedDevice) -> Sharer:
    return Sharer(0, room.percent - share.percent, room.memory_bytes - share.memory_on(device))
