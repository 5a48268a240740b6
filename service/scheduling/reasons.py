"""Reasons: the stable names for why a job waits, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """Why a job waits. In the order in which they are told: what only a person can change comes first."""

    NEVER_FITS = "NeverFits"
    DEPENDENCY_NEVER_SATISFIED = "DependencyNeverSatisfied"
    NO_WORKERS = "NoWorkers"
    NODE_DRAINED = "NodeDrained"
    QUARANTINED = "Quarantined"
    HELD = "Held"
    LIMIT = "Limit"
    QUOTA = "Quota"
    DEPENDENCY = "Dependency"
    BEGIN_TIME = "BeginTime"
    BACKOFF = "Backoff"
    RESOURCES = "Resources"
    PRIORITY = "Priority"


MOST_NAMED = 5  # jobs or nodes, of however many there are
SEVERITY = {code: place for place, code in enumerate(ReasonCode)}


@dataclass(frozen=True, slots=True)
class Reason:
    """One true statement about why a job waits, with its arithmetic."""

    code: ReasonCode
    text: str


def listed(ids: Sequence[int], number: int | None = None) -> str:
    """The first few of these jobs, of `number` in all."""
    shown = ", ".join(map(str, ids[:MOST_NAMED]))
    return f"{shown}, …" if (len(ids) if number is None else number) > MOST_NAMED else shown
