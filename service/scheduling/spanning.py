"""Spanning: runs over several nodes, in equal parts, each on one worker of another node.

All or none, and never GPUs together with CPUs, which have no backend in common. Only jobs that may span nodes come
here: what it costs, others do not pay. It knows neither order nor time.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import lru_cache

from .pools import Cluster, Pool
from .rows import WaitingJob


def part_counts(job: WaitingJob) -> Sequence[int]:
    """Into how many parts the job may be cut, the fewest first."""
    return _divisors(job.num_devices) if job.may_spread else (job.num_nodes,)


def best_parts(job: WaitingJob, cluster: Cluster, pool: Pool, refused_for: Mapping[int, Container[int]]) -> list[int]:
    """The workers for the fewest parts that fit now, each the best fit on its node; empty if none fit.

    Args:
        refused_for: by the size of a part, the workers that must not be chosen for it.
    """
    for num_parts in part_counts(job):
        size = job.num_devices // num_parts
        refused = refused_for.get(size, ())
        able = [worker for worker, free in pool.free.items() if free >= size and worker not in refused]
        if len(able) < num_parts:
            continue
        able.sort(key=lambda worker: pool.tightness(worker, size))
        for alike in cluster.by_kind(able):
            chosen = first_of_each_node(cluster, alike)
            if len(chosen) >= num_parts:
                return chosen[:num_parts]
    return []


def fits(job: WaitingJob, cluster: Cluster, room: Mapping[int, int]) -> bool:
    """Whether workers with so many devices (by worker) can hold the job."""
    return any(most_nodes(cluster, room, job.num_devices // number) >= number for number in part_counts(job))


def most_nodes(cluster: Cluster, room: Mapping[int, int], size: int) -> int:
    """How many parts of this size there is room for, each on another node."""
    able = [worker for worker, number in room.items() if number >= size]
    return max((len(first_of_each_node(cluster, alike)) for alike in cluster.by_kind(able)), default=0)


def first_of_each_node(cluster: Cluster, workers: Sequence[int]) -> list[int]:
    """Of these workers the first one on each node."""
    chosen: dict[str, int] = {}
    for worker in workers:
        chosen.setdefault(cluster.workers[worker].node, worker)
    return list(chosen.values())


@lru_cache(maxsize=1024)
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(each for each in range(1, number + 1) if number % each == 0)
