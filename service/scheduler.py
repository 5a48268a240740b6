"""The scheduler: a pure function from rows to placements, and to the reasons why each other job must wait.

First come, first served within a priority; all devices of a run on one worker or none. What decides here is what
`dljobs why` explains: `dispatch.py` acts on the same plan that the command prints. It imports nothing but types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class ReasonCode(StrEnum):
    """Stable names for why a job waits."""

    HELD = "Held"
    NO_WORKERS = "NoWorkers"
    NEVER_FITS = "NeverFits"
    BACKOFF = "Backoff"
    PRIORITY = "Priority"
    RESOURCES = "Resources"


@dataclass(frozen=True)
class Reason:
    """One true statement about why a job waits, with its arithmetic."""

    code: ReasonCode
    text: str


@dataclass(frozen=True)
class WaitingJob:
    """A job in the queue, as much of it as placing needs."""

    id: int
    num_devices: int
    priority: int
    submitted_at: float
    eligible_at: float | None = None
    held: bool = False


@dataclass(frozen=True)
class OfferedDevice:
    """A device of a worker that takes work; `job_id` is the job that holds it now."""

    id: int
    job_id: int | None = None


@dataclass(frozen=True)
class OfferingWorker:
    """A worker that takes work."""

    id: int
    name: str
    devices: tuple[OfferedDevice, ...]


@dataclass(frozen=True)
class Placed:
    """A decision: this job runs on these devices of this worker."""

    job_id: int
    worker_id: int
    device_ids: tuple[int, ...]


@dataclass
class Plan:
    """What to start now, and for every other job in the queue why not."""

    placed: list[Placed] = field(default_factory=list)
    reasons: dict[int, list[Reason]] = field(default_factory=dict)


def plan(jobs: Sequence[WaitingJob], workers: Sequence[OfferingWorker], moment: float) -> Plan:
    """Decide what starts at `moment` (the database's clock, seconds).

    A job that fits on no worker at all blocks nobody; any other job that must wait keeps those behind it waiting too,
    so that a large job is never starved by small ones.
    """
    result = Plan()
    free = {worker.id: [device.id for device in worker.devices if device.job_id is None] for worker in workers}
    largest = max((len(worker.devices) for worker in workers), default=0)
    holders = {worker.id: {d.job_id for d in worker.devices if d.job_id is not None} for worker in workers}
    blocking: list[WaitingJob] = []
    for job in sorted(jobs, key=lambda job: (-job.priority, job.submitted_at, job.id)):
        reasons = _own_reasons(job, len(workers), largest, moment)
        if not reasons:
            best = _best_fit(job.num_devices, free)
            if best is not None and not blocking:
                taken, free[best] = free[best][: job.num_devices], free[best][job.num_devices :]
                result.placed.append(Placed(job.id, best, tuple(taken)))
                holders[best].add(job.id)
                continue
            if best is None:
                reasons.append(_too_few_free(job, workers, free, holders))
            if blocking:
                reasons.append(_others_ahead(blocking))
            blocking.append(job)
        result.reasons[job.id] = reasons
    return result


def _own_reasons(job: WaitingJob, num_workers: int, largest: int, moment: float) -> list[Reason]:
    """The reasons for which this job could not start even if it were alone; such a job blocks no other."""
    reasons = []
    if job.held:
        reasons.append(Reason(ReasonCode.HELD, f"it is held; let it go with `dljobs release {job.id}`"))
    if not num_workers:
        reasons.append(Reason(ReasonCode.NO_WORKERS, "no worker takes work now; start one with `dljobs worker`"))
    elif job.num_devices > largest:
        text = f"it needs {_devices(job.num_devices)} on one worker; the largest worker has {largest}"
        reasons.append(Reason(ReasonCode.NEVER_FITS, text))
    if job.eligible_at is not None and job.eligible_at > moment:
        text = f"its last run failed; it is tried again in {job.eligible_at - moment:.0f} s"
        reasons.append(Reason(ReasonCode.BACKOFF, text))
    return reasons


def _best_fit(num_devices: int, free: dict[int, list[int]]) -> int | None:
    """The worker that has enough free devices and keeps the fewest over: large gaps stay for large jobs."""
    fitting = [(len(ids), worker_id) for worker_id, ids in free.items() if len(ids) >= num_devices]
    return min(fitting)[1] if fitting else None


def _too_few_free(
    job: WaitingJob, workers: Sequence[OfferingWorker], free: dict[int, list[int]], holders: dict[int, set[int]]
) -> Reason:
    best = max(workers, key=lambda worker: (len(free[worker.id]), -worker.id))
    text = f"it needs {_devices(job.num_devices)}; the best worker, {best.name}, has {len(free[best.id])} free"
    if held_by := sorted(holders[best.id]):
        text += f" (held by job{'s' if len(held_by) > 1 else ''} {_listed(held_by)})"
    return Reason(ReasonCode.RESOURCES, text)


def _others_ahead(blocking: Sequence[WaitingJob]) -> Reason:
    are = "job is" if len(blocking) == 1 else "jobs are"
    return Reason(ReasonCode.PRIORITY, f"{len(blocking)} {are} ahead ({_listed([job.id for job in blocking])})")


def _devices(number: int) -> str:
    return f"{number} device{'s' if number > 1 else ''}"


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:5]))
    return f"{shown}, …" if len(ids) > 5 else shown
