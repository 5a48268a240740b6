"""Estimates: how long jobs run, from the best that is known: measured progress, then the time limit, then history."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# A measured rate that is contradicted for longer than this, or a tenth of the run, is no longer believed.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run has come; `num_steps` of `total_steps` at `measured_at`, a rate of None: not measured yet."""

    started_at: float
    num_steps: int = 0
    total_steps: int = 0
    steps_per_s: float | None = None
    measured_at: float | None = None


def expected_end_at(
    progress: RunProgress, now: float, *, time_limit_s: float | None, usual_duration_s: float | None
) -> float | None:
    """When a run is expected to end, not before `now`; None where nobody knows.

    The time limit ends a run, so that nothing is expected to last longer.
    """
    limit_at = None if time_limit_s is None else max(progress.started_at + time_limit_s, now)
    measured_at = _measured_end_at(progress, now)
    if measured_at is not None:
        return measured_at if limit_at is None else min(measured_at, limit_at)
    if limit_at is not None:
        return limit_at
    if usual_duration_s is None:
        return None
    usual_at = progress.started_at + usual_duration_s
    return None if _is_refuted(usual_at, progress.started_at, now) else max(usual_at, now)


def usual_duration_s(seconds_per_epoch: Sequence[float], num_epochs: int | None) -> float | None:
    """What a job of so many epochs takes, by earlier jobs of the same model; None without any."""
    if not seconds_per_epoch or not num_epochs:
        return None
    return statistics.median(seconds_per_epoch) * num_epochs


def _measured_end_at(progress: RunProgress, now: float) -> float | None:
    if not progress.steps_per_s or progress.steps_per_s <= 0 or not progress.total_steps:
        return None
    measured_at = now if progress.measured_at is None else progress.measured_at
    end_at = measured_at + max(progress.total_steps - progress.num_steps, 0) / progress.steps_per_s
    return None if _is_refuted(end_at, progress.started_at, now) else max(end_at, now)


def _is_refuted(end_at: float, started_at: float, now: float) -> bool:
    """Whether the end should have come long ago: then it says nothing about when it will."""
    return now - end_at > max(PATIENCE_S, 0.1 * (end_at - started_at))
