"""Pools: the devices of the cluster, and which worker has how many free for a kind of request.

Choosing a worker costs about the logarithm of their number: each pool keeps its workers in buckets by free devices. It
knows no order, no priorities and no time.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from heapq import heappop, heappush

from .rows import OfferedDevice, OfferingWorker, Selector, Sharer
from .sharing import SharedDevices, crowd

NOWHERE = -1


class Pool:
    """The workers that may take jobs of one selector; a worker is named by its index in the cluster."""

    def __init__(self, selector: Selector, capacity: dict[int, int], free: dict[int, int]) -> None:
        self.selector = selector
        self.capacity = capacity  # devices that would do, free or not
        self.free = free
        self.largest = max(capacity.values(), default=0)
        # Bucket n: workers with n free devices; those of which nothing is taken apart, so that they stay whole.
        self._started: list[list[int]] = [[] for _ in range(self.largest + 1)]
        self._whole: list[list[int]] = [[] for _ in range(self.largest + 1)]
        for worker in sorted(capacity):
            self._bucket(worker).append(worker)
        self._top = self.largest

    def most_free(self) -> int:
        """Free devices of the worker that has most."""
        while self._top and not (self._first(self._started, self._top) or self._first(self._whole, self._top)):
            self._top -= 1
        return self._top

    def best_fit(self, num_devices: int, refused: Container[int] = ()) -> int:
        """The worker with the fewest devices left over, a whole one only if it must or if it is filled; or NOWHERE.

        Args:
            refused: workers that are not to be chosen.
        """
        for buckets, number in self._in_turn(num_devices):
            if not buckets[number]:
                continue
            if (worker := self._pick(buckets, number, refused)) != NOWHERE:
                return worker
        return NOWHERE

    def best_fits(self, num_devices: int, refused: Container[int], number: int) -> list[int]:
        """The best few workers: so many of those with a part taken, the best fit first, if there are such with room.

        The one that `best_fit` chooses alone is whole or is filled by the job.
        """
        best = self.best_fit(num_devices, refused)
        if best == NOWHERE or self.free[best] in (self.capacity[best], num_devices):
            return [best] if best != NOWHERE else []
        found: list[int] = []
        for free in range(num_devices, self.largest + 1):
            # In a heap the first few entries are among the least, and those alone are looked at: the cost is bounded.
            for worker in self._started[free][: 4 * number]:
                if self.free[worker] == free < self.capacity[worker] and worker not in refused and worker not in found:
                    found.append(worker)
                    if len(found) == number:
                        return found
        return found

    def tightness(self, worker: int, num_devices: int) -> tuple[bool, int, int]:
        """What orders workers as `best_fit` does: the less is left over the better, and a whole one only if filled."""
        free = self.free[worker]
        return free == self.capacity[worker] and free != num_devices, free, worker

    def change(self, worker: int, by: int) -> None:
        """The worker has `by` more free devices, or fewer."""
        if by:
            self.free[worker] += by
            heappush(self._bucket(worker), worker)
            self._top = max(self._top, self.free[worker])

    def _in_turn(self, num_devices: int) -> Iterator[tuple[list[list[int]], int]]:
        if num_devices <= self.largest:
            yield self._started, num_devices
            yield self._whole, num_devices
        for number in range(num_devices + 1, self.largest + 1):
            yield self._started, number
        for number in range(num_devices + 1, self.largest + 1):
            yield self._whole, number

    def _bucket(self, worker: int) -> list[int]:
        number = self.free[worker]
        return (self._whole if number == self.capacity[worker] else self._started)[number]

    def _first(self, buckets: list[list[int]], number: int) -> bool:
        """Whether a worker is in the bucket; those that have left it since are removed from its front."""
        heap = buckets[number]
        while heap:
            worker = heap[0]
            if self.free[worker] == number and (self.capacity[worker] == number) == (buckets is self._whole):
                return True
            heappop(heap)
        return False

    def _pick(self, buckets: list[list[int]], number: int, refused: Container[int]) -> int:
        heap, aside, found = buckets[number], [], NOWHERE
        while self._first(buckets, number):
            if heap[0] not in refused:
                found = heap[0]
                break
            aside.append(heappop(heap))
        for worker in aside:
            heappush(heap, worker)
        return found


class Cluster:
    """All workers with their devices, free and taken. Workers are named by their index in order of id."""

    def __init__(self, workers: Iterable[OfferingWorker]) -> None:
        self.workers = sorted(workers, key=lambda worker: worker.id)
        self.free: list[list[OfferedDevice]] = []
        # By id, with the job that holds it, or with the `crowd` of a shared one.
        self.taken: list[dict[int, tuple[OfferedDevice, int]]] = []
        self.shared = SharedDevices()
        for index, worker in enumerate(self.workers):
            # One in quarantine is not there, even while a job holds it: nobody gets it after that.
            devices = sorted((each for each in worker.devices if each.quarantined is None), key=_by_id)
            free = [device for device in devices if device.job_id is None]
            taken = {device.id: (device, device.job_id) for device in devices if device.job_id is not None}
            for device in [device for device in free if device.sharers]:
                free.remove(device)
                taken[device.id] = (device, crowd(device.id))
                for sharer in device.sharers:
                    self.shared.add(index, device, sharer)
            self.free.append(free)
            self.taken.append(taken)
        self.num_free = sum(
            len(free) for worker, free in zip(self.workers, self.free, strict=True) if worker.drained is None
        )
        self._pools: dict[Selector, Pool] = {}

    def pool(self, selector: Selector) -> Pool:
        """The workers for jobs of this selector; those of drained nodes are not among them."""
        pool = self._pools.get(selector)
        if pool is None:
            pool = self._pools[selector] = self._make_pool(selector)
        return pool

    def has_room(self) -> bool:
        """Whether anything is left for anyone."""
        return self.num_free > 0 or self.shared.has_room

    def most_free(self, pool: Pool) -> int:
        """Free devices of the worker that has most; 1 also where a share of a device is asked for and left."""
        number = pool.most_free()
        if pool.selector.share is None or number:
            return number
        return int(any(self.shared.fitting(pool.selector, lambda shared: shared.worker in pool.capacity)))

    def drained_pool(self, selector: Selector) -> Pool:
        """As `pool`, of the workers of drained nodes; made anew each time."""
        return self._make_pool(selector, drained=True)

    def by_kind(self, workers: Sequence[int]) -> list[list[int]]:
        """These workers, those with GPUs apart from those with CPUs, in their order."""
        kinds: tuple[list[int], list[int]] = ([], [])
        for worker in workers:
            kinds[self.workers[worker].devices[0].is_cpu].append(worker)  # a worker has devices of one kind
        return [kind for kind in kinds if kind]

    def take(self, worker: int, selector: Selector, num_devices: int, job_id: int) -> tuple[int, ...]:
        """Give free devices to a job, of one model if there are enough of it; returns their ids."""
        chosen = self._choose(worker, selector, num_devices)
        gone = {device.id for device in chosen}
        self.free[worker] = [device for device in self.free[worker] if device.id not in gone]
        for device in chosen:
            self.taken[worker][device.id] = (device, job_id)
        self._tell_pools(worker, chosen, -1)
        return tuple(device.id for device in chosen)

    def join(self, worker: int, device: OfferedDevice, sharer: Sharer) -> None:
        """Put a job onto a device that is shared."""
        self.shared.add(worker, device, sharer)

    def take_share(self, worker: int, selector: Selector, job_id: int) -> tuple[OfferedDevice, Sharer]:
        """Make a free device a shared one, with this job on it."""
        assert selector.share is not None
        [device_id] = self.take(worker, selector, 1, job_id)
        device = self.taken[worker][device_id][0]
        sharer = Sharer(job_id, selector.share.percent, selector.share.memory_on(device))
        self.taken[worker][device_id] = (device, crowd(device_id))
        self.shared.add(worker, device, sharer)
        return device, sharer

    def leave(self, worker: int, device_id: int, job_id: int) -> None:
        """A job leaves a shared device; with the last one it is free again."""
        if self.shared.remove(device_id, job_id):
            self.give_back(worker, [device_id])

    def jobs_of(self, holder: int) -> list[int]:
        """The jobs that a holder stands for."""
        return [holder] if holder >= 0 else list(self.shared.devices[crowd(holder)].sharers)

    def hand_over(self, worker: int, device_ids: Iterable[int], job_id: int) -> None:
        """Give these devices to a job, whether they are free or not."""
        wanted = set(device_ids)
        free = [device for device in self.free[worker] if device.id in wanted]
        self.free[worker] = [device for device in self.free[worker] if device.id not in wanted]
        for device in [*free, *(each for each, _holder in self.taken[worker].values() if each.id in wanted)]:
            self.taken[worker][device.id] = (device, job_id)
        self._tell_pools(worker, free, -1)

    def give_back(self, worker: int, device_ids: Iterable[int]) -> None:
        """The devices are free again."""
        freed = [self.taken[worker].pop(device_id)[0] for device_id in device_ids]
        self.free[worker] = sorted([*self.free[worker], *freed], key=_by_id)
        self._tell_pools(worker, freed, +1)

    def whereabouts(self) -> dict[int, tuple[int, int | None]]:
        """Of each device that takes work: its worker, and the job that holds it."""
        found: dict[int, tuple[int, int | None]] = {}
        for worker, offering in enumerate(self.workers):
            if offering.drained is None:
                found.update({device.id: (worker, None) for device in self.free[worker]})
                found.update({key: (worker, holder) for key, (_device, holder) in self.taken[worker].items()})
        return found

    def holders(self, worker: int, selector: Selector) -> list[int]:
        """Who holds devices of a worker that would do, once for each device: a job, or the `crowd` of a shared one."""
        taken = self.taken[worker].values()
        if selector.is_about_devices:
            return [job_id for device, job_id in taken if selector.accepts(device)]
        return [job_id for _device, job_id in taken]

    def _choose(self, worker: int, selector: Selector, num_devices: int) -> list[OfferedDevice]:
        free = self.free[worker]
        if selector.is_about_devices:
            free = [device for device in free if selector.accepts(device)]
        models: dict[tuple[str, int], list[OfferedDevice]] = {}
        for device in free:
            models.setdefault((device.name, device.memory_bytes or 0), []).append(device)
        if len(models) > 1:
            enough = [devices for devices in models.values() if len(devices) >= num_devices]
            free = min(enough, key=lambda devices: (len(devices), devices[0].id)) if enough else free
        return free[:num_devices]

    def _make_pool(self, selector: Selector, *, drained: bool = False) -> Pool:
        capacity, free = {}, {}
        for index, worker in enumerate(self.workers):
            if (worker.drained is not None) != drained or not selector.allows(worker):
                continue
            num_free = len(self.free[index])
            if selector.is_about_devices:
                num_free = sum(map(selector.accepts, self.free[index]))
            if num_all := num_free + len(self.holders(index, selector)):
                capacity[index], free[index] = num_all, num_free
        return Pool(selector, capacity, free)

    def _tell_pools(self, worker: int, devices: Sequence[OfferedDevice], sign: int) -> None:
        if self.workers[worker].drained is None:
            self.num_free += sign * len(devices)
        for selector, pool in self._pools.items():
            if worker in pool.free:
                number = sum(map(selector.accepts, devices)) if selector.is_about_devices else len(devices)
                pool.change(worker, sign * number)


def _by_id(device: OfferedDevice) -> int:
    return device.id
