"""Limits: how much each user, each tag and each set has running, held against the most they may have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from dljobs.service.sizes import show_size

from .quotas import OverQuota
from .rows import Limit, Policy, RunningJob, WaitingJob

_NONE = Limit()


def limit_of(limits: Mapping[str, Limit], name: str) -> Limit:
    """The limit of this user or tag: its own, or everybody's."""
    return limits.get(name) or limits.get("*") or _NONE


class Tally:
    """What runs, per user, tag and set."""

    def __init__(
        self,
        policy: Policy,
        running: Iterable[RunningJob],
        max_parallel: Mapping[int, int] | None = None,
        over_quota: Mapping[tuple[str, str], OverQuota] | None = None,
    ) -> None:
        self._policy = policy
        self._max_parallel = max_parallel or {}
        self._over_quota = over_quota or {}
        self._has_policy = bool(policy.user_limits or policy.tag_limits)
        self.is_limiting = self._has_policy or bool(self._max_parallel) or bool(self._over_quota)
        self._of_set: Counter[int] = Counter()
        self._percent: Counter[tuple[str, str]] = Counter()  # hundredths of a device
        self._jobs: Counter[tuple[str, str]] = Counter()
        self._kept_for: dict[tuple[str, str], int] = {}
        if self.is_limiting:
            for job in running:
                self.add(job)

    def add(self, job: RunningJob | WaitingJob) -> None:
        """One more job runs."""
        for what in self._counted(job):
            self._percent[what] += job.size_percent
            self._jobs[what] += 1
        if job.set_id is not None:
            self._of_set[job.set_id] += 1

    def most_devices(self, job: WaitingJob) -> int:
        """The most devices that the job may start on, as far as limits go; at least what it needs, which is allowed."""
        most = job.most_devices
        for kind, name in self._counted(job) if self._has_policy else ():
            limit = self._limit(kind, name).running_devices
            if limit is not None:
                most = min(most, limit - math.ceil(self._percent[kind, name] / 100))
        return max(most, job.num_devices)

    def allows(self, job: WaitingJob) -> bool:
        """Whether the job may start now, as far as limits go."""
        # Without words, because thousands of one set may have to be asked at each plan.
        return not self.set_is_full(job) and self.allows_user(job)

    def allows_user(self, job: WaitingJob) -> bool:
        """As `allows`, whatever limit its set has."""
        if self._has_policy and self._policy_objections(job):
            return False
        return self._over_quota.keys().isdisjoint(self._counted(job))

    def keep_room(self, job: WaitingJob) -> None:
        """What is left within the job's limits is kept for it: else small jobs would keep a large one out for ever."""
        if not self._has_policy or self.set_is_full(job) or not self._over_quota.keys().isdisjoint(self._counted(job)):
            return
        limits = {whose: self._limit(*whose) for whose in self._counted(job)}
        if not all(_admits(limit, job) for limit in limits.values()):
            return  # whatever ends, it cannot start
        for whose, limit in limits.items():
            if limit.running_devices is not None or limit.running_jobs is not None:
                self._kept_for.setdefault(whose, job.id)

    def kept_for_others(self, job: WaitingJob) -> dict[tuple[str, str], int]:
        """The users and tags of this job what is left within whose limits is kept for another job, and which one."""
        if not self._kept_for:
            return {}
        mine = {whose: self._kept_for.get(whose, job.id) for whose in self._counted(job)}
        return {whose: job_id for whose, job_id in mine.items() if job_id != job.id}

    def quotas_used_up(self, job: WaitingJob, now: float) -> list[str]:
        """Each quota that keeps the job from starting, in words."""
        over = [(whose, self._over_quota[whose]) for whose in self._counted(job) if whose in self._over_quota]
        return [each.describe(" ".join(whose), now) for whose, each in over]

    def objections(self, job: WaitingJob) -> list[str]:
        """Each limit that the job would pass if it started now, in words."""
        found = self._policy_objections(job)
        if self.set_is_full(job):
            assert job.set_id is not None
            most, has = self._max_parallel[job.set_id], self._of_set[job.set_id]
            found.append(f"set s{job.set_id} may have {_jobs(most)} running at a time and has {has}")
        return found

    def set_is_full(self, job: WaitingJob) -> bool:
        """Whether as many of its set run as may."""
        most = None if job.set_id is None else self._max_parallel.get(job.set_id)
        return most is not None and job.set_id is not None and self._of_set[job.set_id] >= most

    def _policy_objections(self, job: WaitingJob) -> list[str]:
        found = []
        for kind, name in self._counted(job):
            limit = self._limit(kind, name)
            percent, more, jobs = self._percent[kind, name], job.size_percent, self._jobs[kind, name]
            if limit.running_devices is not None and percent + more > 100 * limit.running_devices:
                text = f"{kind} {name} may have {show_size(limit.running_devices)} running"
                if more > 100 * limit.running_devices:
                    found.append(f"{text}, never the {more / 100:g} that it needs")
                else:
                    would_be = f"{more / 100:g} more would be {(percent + more) / 100:g}"
                    found.append(f"{text} and has {percent / 100:g}: {would_be}")
            if limit.running_jobs is not None and jobs >= limit.running_jobs:
                found.append(f"{kind} {name} may have {_jobs(limit.running_jobs)} running and has {jobs}")
        return found

    def _limit(self, kind: str, name: str) -> Limit:
        return limit_of(self._policy.user_limits if kind == "user" else self._policy.tag_limits, name)

    def _counted(self, job: RunningJob | WaitingJob) -> list[tuple[str, str]]:
        return [("user", job.user), *(("tag", tag) for tag in dict.fromkeys(job.tags))]


def _admits(limit: Limit, job: WaitingJob) -> bool:
    """Whether the job alone is within the limit."""
    is_small = limit.running_devices is None or job.size_percent <= 100 * limit.running_devices
    return is_small and limit.running_jobs != 0


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"
