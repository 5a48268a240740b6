"""The summary of a simulation: what it is judged by.

wait              seconds from submission to start: mean and percentiles (nearest rank), of all jobs and by devices
bounded slowdown  max(1, (end - submission) / max(duration, 10 s)), after Feitelson and Rudolph: short jobs do not
                  count for hundreds
utilisation       of the devices between the first and the last submission: what comes after is only the tail
fairness          Jain's index of the users' mean bounded slowdowns: 1 is the same for all, 1/n is all for one
makespan          from the first submission to the last end
lost work         device-seconds of runs that resumed, before they did anything new
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dljobs.service.sizes import Size

from .simulator import Record
from .trace import TraceJob

LEAST_DURATION_S = 10.0


@dataclass(frozen=True)
class Waits:
    """How long jobs waited, in seconds."""

    num_jobs: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True)
class Summary:
    """One simulation in numbers; `waits_by_size` is by devices, as `sizes.Size` writes them."""

    num_jobs: int
    num_never_fit: int
    utilisation: float
    waits: Waits
    waits_by_size: dict[str, Waits]
    waits_of_light_users: Waits
    bounded_slowdown_mean: float
    bounded_slowdown_p95: float
    fairness: float
    makespan_s: float
    num_plans: int
    plan_p50_ms: float
    plan_p99_ms: float
    decisions_per_s: float
    num_preemptions: int
    lost_device_s: float

    def to_json(self) -> dict[str, Any]:
        """All of it, as `--json` prints it."""
        return asdict(self)


def summarise(record: Record) -> Summary:
    """The summary of a simulation in which at least one job ran."""
    jobs = [job for job in record.jobs if job.id in record.starts]
    waits = {job.id: record.starts[job.id] - job.submit_s for job in jobs}
    slowdowns = [max(1.0, (record.ends[job.id] - job.submit_s) / max(job.duration_s, LEAST_DURATION_S)) for job in jobs]
    by_size: dict[Size, list[float]] = {}
    by_user: dict[str, list[float]] = {}
    for job, slowdown in zip(jobs, slowdowns, strict=True):
        by_size.setdefault(job.size, []).append(waits[job.id])
        by_user.setdefault(job.user, []).append(slowdown)
    first_s, last_s = jobs[0].submit_s, max(job.submit_s for job in record.jobs)
    busy = sum(run.held * max(min(run.end, last_s) - run.start, 0.0) for run in record.intervals)
    plan_s, light_users = sorted(record.plan_s), _light_users(jobs)
    return Summary(
        num_jobs=len(jobs),
        num_never_fit=len(record.jobs) - len(jobs),
        utilisation=busy / (record.num_devices * (last_s - first_s)) if last_s > first_s else 0.0,
        waits=_waits(list(waits.values())),
        waits_of_light_users=_waits([waits[job.id] for job in jobs if job.user in light_users]),
        waits_by_size={str(size): _waits(by_size[size]) for size in sorted(by_size, key=_smallness)},
        bounded_slowdown_mean=statistics.fmean(slowdowns),
        bounded_slowdown_p95=percentile(sorted(slowdowns), 95),
        fairness=_jain([statistics.fmean(found) for found in by_user.values()]),
        makespan_s=max(record.ends[job.id] for job in jobs) - first_s,
        num_plans=len(plan_s),
        plan_p50_ms=1000 * percentile(plan_s, 50),
        plan_p99_ms=1000 * percentile(plan_s, 99),
        decisions_per_s=len(record.intervals) / sum(plan_s) if plan_s else 0.0,
        num_preemptions=sum(run.is_preempted for run in record.intervals),
        lost_device_s=sum(run.lost_s * run.held for run in record.intervals),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """By nearest rank."""
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]


def _smallness(size: Size) -> tuple[int, int, int]:
    return size.share_percent, size.num_devices, size.min_devices


def _light_users(jobs: Sequence[TraceJob]) -> set[str]:
    used: dict[str, float] = {}
    for job in jobs:
        used[job.user] = used.get(job.user, 0.0) + job.device_s
    ranked = sorted(used, key=lambda user: (used[user], user))
    return set(ranked[: (len(ranked) + 1) // 2])


def _waits(found: Sequence[float]) -> Waits:
    ordered = sorted(found)
    return Waits(len(ordered), statistics.fmean(ordered), *(percentile(ordered, each) for each in (50, 95, 99)))


def _jain(values: Sequence[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))
