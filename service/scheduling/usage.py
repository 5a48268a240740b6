"""Usage: how much of the devices each user has had, with what is long ago counting less.

A second on a device counts half after `half_life_s`, a quarter after twice that, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spell:
    """Device-seconds of a user, spread evenly over a time; or all at one moment, where that is what is known."""

    user: str
    device_s: float
    begun_at: float
    ended_at: float


def decayed_device_s(spell: Spell, now: float, half_life_s: float) -> float:
    """What the spell counts at `now`: the integral of its rate times 2^(-age / half-life)."""
    length_s = spell.ended_at - spell.begun_at
    at_end = math.exp2(-max(now - spell.ended_at, 0.0) / half_life_s)
    if length_s <= 0:
        return spell.device_s * at_end
    # expm1 keeps its digits where a spell is short beside the half-life.
    faded = -math.expm1(-length_s / half_life_s * math.log(2))
    return spell.device_s * at_end * faded * half_life_s / (length_s * math.log(2))


def decayed_usage(spells: Iterable[Spell], now: float, half_life_s: float) -> dict[str, float]:
    """Each user's decayed device-seconds."""
    total: dict[str, float] = {}
    for spell in spells:
        total[spell.user] = total.get(spell.user, 0.0) + decayed_device_s(spell, now, half_life_s)
    return total
