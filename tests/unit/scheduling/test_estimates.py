"""How long a run is expected to take: measured, then limited, then by history; and what a user's past use counts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.estimates import RunProgress, expected_end_at, usual_duration_s
from dljobs.service.scheduling.usage import Spell, decayed_device_s, decayed_usage

NOW = 10_000.0
HALF_LIFE_S = 3600.0


def end(progress: RunProgress, limit_s: float | None = None, usual_s: float | None = None) -> float | None:
    return expected_end_at(progress, NOW, time_limit_s=limit_s, usual_duration_s=usual_s)


def test_a_measured_rate_comes_first_and_the_limit_cuts_it() -> None:
    measured = RunProgress(NOW - 100, 100, 300, 1.0, NOW)
    assert end(measured, None, 5.0) == NOW + 200
    assert end(measured, 1000.0) == NOW + 200
    assert end(measured, 150.0) == NOW + 50


def test_the_limit_comes_before_history() -> None:
    assert end(RunProgress(NOW - 10), 100.0, 20.0) == NOW + 90
    assert end(RunProgress(NOW - 10), None, 20.0) == NOW + 10
    assert end(RunProgress(NOW - 10)) is None


def test_what_should_have_ended_long_ago_says_nothing() -> None:
    assert end(RunProgress(NOW - 100), None, 80.0) == NOW, "a little late"
    assert end(RunProgress(NOW - 200), None, 80.0) is None
    stuck = RunProgress(NOW - 5000, 10, 20, 1.0, NOW - 4000)
    assert end(stuck) is None
    assert end(stuck, 6000.0) == NOW + 1000


def test_history_is_by_epoch() -> None:
    assert usual_duration_s([1.0, 2.0, 30.0], 10) == 20.0
    assert usual_duration_s([], 10) is None
    assert usual_duration_s([1.0], None) is None


def test_use_halves_with_each_half_life() -> None:
    at_once = Spell("ada", 100.0, NOW, NOW)
    assert decayed_device_s(at_once, NOW, HALF_LIFE_S) == 100.0
    assert decayed_device_s(at_once, NOW + HALF_LIFE_S, HALF_LIFE_S) == pytest.approx(50.0)
    assert decayed_device_s(at_once, NOW + 3 * HALF_LIFE_S, HALF_LIFE_S) == pytest.approx(12.5)
    assert decayed_usage([at_once, at_once, Spell("bob", 1.0, NOW, NOW)], NOW, HALF_LIFE_S) == {"ada": 200, "bob": 1}


@given(st.floats(0.01, 1e6), st.floats(0, 1e6), st.integers(1, 40))
def test_a_spell_counts_as_its_parts_do(length_s: float, ago_s: float, num_parts: int) -> None:
    """The integral: cutting a spell changes nothing, and each part lies between all at its begin and all at its end."""
    ended_at = NOW - ago_s
    cuts = [ended_at - length_s * part / num_parts for part in range(num_parts, -1, -1)]
    whole = decayed_device_s(Spell("ada", length_s, cuts[0], ended_at), NOW, HALF_LIFE_S)
    parts = [Spell("ada", b - a, a, b) for a, b in itertools.pairwise(cuts)]
    assert sum(decayed_device_s(part, NOW, HALF_LIFE_S) for part in parts) == pytest.approx(whole, rel=1e-4)
    newest = decayed_device_s(Spell("ada", length_s, ended_at, ended_at), NOW, HALF_LIFE_S)
    oldest = decayed_device_s(Spell("ada", length_s, cuts[0], cuts[0]), NOW, HALF_LIFE_S)
    assert oldest * (1 - 1e-9) <= whole <= newest * (1 + 1e-9)
