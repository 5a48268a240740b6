"""Reservations: the worker that a blocked job will run on, from when, and what may use it until then.

A backfilled job may use a reserved worker if it ends in time, or on devices that the blocked job does not need. Only
expected ends are known here; without one a job is taken to run for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .pools import Cluster, Pool
from .rows import WaitingJob


@dataclass
class Reservation:
    """The first blocked job's claim on a worker. `start_at` is infinite where nobody knows when enough is free."""

    job_id: int
    worker: int
    start_at: float
    num_spare: int  # devices free at `start_at` that the job does not need

    def permits(self, num_devices: int, end_at: float) -> bool:
        """Whether a job that takes so many devices of the worker now, until then, delays nobody."""
        return (end_at <= self.start_at < math.inf) or num_devices <= self.num_spare

    def note_taken(self, num_devices: int, end_at: float) -> None:
        """A job took devices of the worker."""
        if not end_at <= self.start_at < math.inf:
            self.num_spare -= num_devices


def earliest(
    job: WaitingJob, pool: Pool, cluster: Cluster, ends: Mapping[int, float], reserved: Mapping[int, Reservation]
) -> Reservation | None:
    """Where the job can start first, as far as the ends of jobs are known; None: every worker it fits is reserved.

    Args:
        ends: when each job that holds devices is expected to end; infinite or missing where nobody knows.
    """
    best: tuple[float, int, int] | None = None
    for worker, capacity in pool.capacity.items():
        if capacity < job.num_devices or worker in reserved:
            continue
        num_missing = job.num_devices - pool.free[worker]
        known = sorted([ends[holder] for holder in cluster.holders(worker, pool.selector) if holder in ends])
        while known and known[-1] == math.inf:
            known.pop()
        start_at = known[num_missing - 1] if num_missing <= len(known) else math.inf
        # Of those nobody knows, the one where the fewest have to end: it never gets further away.
        rank = (start_at, num_missing - len(known) if start_at == math.inf else 0, worker)
        if best is None or rank < best:
            best = rank
            num_spare = pool.free[worker] + sum(end <= start_at for end in known) - job.num_devices
    return best and Reservation(job.id, best[2], best[0], max(num_spare, 0))
