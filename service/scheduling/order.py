"""The order of the queue: effective priority, then fair share, then the time of submission.

It knows no devices: what may overtake whom is the plan's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

from .rows import Policy, RunningJob, WaitingJob

AGEING_POINTS = 10
HIGHEST_PRIORITY = 100
# What a job is taken to cost where nobody knows how long it will run.
USUAL_DURATION_S = 3600.0
# Below so many device-seconds of a user, a difference is none.
SMALL_USE_S = 60.0


def effective_priority(job: WaitingJob | RunningJob, now: float, policy: Policy) -> int:
    """The job's priority and what it gained by waiting until `now`; it may pass 100."""
    return job.priority + AGEING_POINTS * int(max(now - job.submitted_at, 0.0) // policy.ageing_s)


def overtaking_bound_s(priority: int, policy: Policy) -> float:
    """A job submitted so much later than one of this priority never stands ahead of it, whatever its own priority.

    floor(a) - floor(b) >= floor(a - b): after k ageing periods between them the older one has gained at least
    10 k points more. So the number of jobs that can ever be ahead is finite: nothing starves, as what is first keeps
    devices (`reservations.py`) and, once it has waited for `ageing_s`, the room within its limits (`limits.py`).
    """
    return ((HIGHEST_PRIORITY - priority) // AGEING_POINTS + 1) * policy.ageing_s


def standing(used_s: float) -> int:
    """How often a user's device-seconds (over their share) have doubled; users of one standing go by submission.

    A finer order would change with every job that ends, and devices that had been kept for one large job would be kept
    for another: neither would start.
    """
    return int(math.log2(1 + used_s / SMALL_USE_S))


def in_order(jobs: Sequence[WaitingJob], usage: Mapping[str, float], now: float, policy: Policy) -> list[WaitingJob]:
    """The jobs in the order in which the scheduler considers them, whatever the order they are given in."""
    ageing_s = policy.ageing_s
    rows = [
        (-(job.priority + AGEING_POINTS * int(max(now - job.submitted_at, 0.0) // ageing_s)), job.submitted_at, job.id)
        for job in jobs
    ]
    places = sorted(range(len(rows)), key=rows.__getitem__)
    ordered = [jobs[place] for place in places]
    if not policy.fair_share or len({job.user for job in ordered}) < 2:
        return ordered
    # Each job is taken to cost something, so that users of the same standing take turns instead of queueing behind
    # whoever submitted a thousand jobs at once.
    charged = dict(usage)
    shares = policy.shares
    keyed = []
    for place, (row, job) in enumerate(zip(map(rows.__getitem__, places), ordered, strict=True)):
        user = job.user
        used = charged.get(user, 0.0)
        keyed.append((row[0], standing(used / shares.get(user, 1.0)), place))
        share = job.selector.share
        num_devices = job.num_devices if share is None else share.percent / 100
        charged[user] = used + num_devices * (job.duration_s or USUAL_DURATION_S)
    keyed.sort()
    return [ordered[place] for place in map(itemgetter(2), keyed)]
