"""Quotas: the device time that a user, or the jobs of a tag, may have in any period; exact, from each run's interval.

The period slides: what is older than it no longer counts. A quota keeps jobs from starting and ends none that runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dljobs.service.durations import show_duration


@dataclass(frozen=True, slots=True)
class Quota:
    """So many device-seconds in a period of so many seconds."""

    device_s: float
    period_s: float


@dataclass(frozen=True, slots=True)
class Interval:
    """What one run has had; `ended_at` None: it goes on."""

    begun_at: float
    ended_at: float | None
    num_devices: float


@dataclass(frozen=True)
class OverQuota:
    """A quota that is used up."""

    quota: Quota
    intervals: tuple[Interval, ...]

    def describe(self, whose: str, now: float) -> str:
        """The arithmetic, and when it frees."""
        most, has = self.quota.device_s / 3600, used_s(self.intervals, now, self.quota.period_s) / 3600
        text = f"{whose} may have {most:g} device-hours in {show_duration(self.quota.period_s)} and has had {has:.2f}"
        moment = frees_at(self.intervals, now, self.quota)
        if moment is None:
            return f"{text}; it stays so while as much runs as now"
        return f"{text}; enough of that is past in about {show_duration(moment - now)}"


def used_s(intervals: Iterable[Interval], now: float, period_s: float) -> float:
    """The device-seconds within the period that ends now."""
    since, total = now - period_s, 0.0
    for each in intervals:
        ended_at = now if each.ended_at is None else min(each.ended_at, now)
        total += max(ended_at - max(each.begun_at, since), 0.0) * each.num_devices
    return total


def frees_at(intervals: Iterable[Interval], now: float, quota: Quota) -> float | None:
    """When less than the quota is used, if what runs goes on and nothing else starts; None: never."""
    known, period_s = list(intervals), quota.period_s
    # What is used changes by straight lines: it falls while an interval leaves the period, and rises while one grows.
    bends: list[tuple[float, float]] = []
    slope = 0.0
    for each in known:
        slope += each.num_devices if each.ended_at is None else 0.0
        leaves = [(each.begun_at + period_s, -each.num_devices)]
        leaves += [] if each.ended_at is None else [(each.ended_at + period_s, each.num_devices)]
        for moment, change in leaves:
            if moment <= now:
                slope += change
            else:
                bends.append((moment, change))
    used, at = used_s(known, now, period_s), now
    if used < quota.device_s:
        return now
    for moment, change in sorted(bends):
        reached = used + slope * (moment - at)
        if slope < 0 and reached < quota.device_s:
            return at + (used - quota.device_s) / -slope
        used, at, slope = reached, moment, slope + change
    return None
