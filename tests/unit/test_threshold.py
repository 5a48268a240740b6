"""Thresholds: their syntax, and what they say of a value."""

from __future__ import annotations

import math

import pytest

from dljobs.errors import UsageError
from dljobs.models.threshold import Threshold, parse_threshold

METRICS = ("accuracy", "loss")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss<1e-3", Threshold(False, "loss", "<", 1e-3)),
        (" train.loss <= .5 ", Threshold(False, "loss", "<=", 0.5)),
        ("test.accuracy>0.98", Threshold(True, "accuracy", ">", 0.98)),
        ("test.loss>=-1", Threshold(True, "loss", ">=", -1.0)),
    ],
)
def test_forms(text: str, expected: Threshold) -> None:
    assert parse_threshold(text, METRICS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss", "'loss' is no condition on a metric"),
        ("loss=1", "is no condition"),
        ("loss<", "is no condition"),
        ("<1", "is no condition"),
        ("loss<tiny", "'tiny' is no number"),
        ("loss<nan", "'nan' is no number"),
        ("val.loss<1", "is no condition"),
        ("test.acuracy>0.9", "unknown test metric 'acuracy': did you mean 'accuracy'"),
        ("accuracy>0.9", "did you mean test.accuracy"),
        ("f1>0.9", "'f1' is not recorded in training"),
    ],
)
def test_what_is_none_is_told_the_valid_forms(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_threshold(text, METRICS)
    assert "loss<1e-3" in caught.value.hint
    assert "test.accuracy>0.98" in caught.value.hint


@pytest.mark.parametrize(("sign", "met"), [("<", [1]), ("<=", [1, 2]), (">", [3]), (">=", [2, 3])])
def test_is_met(sign: str, met: list[int]) -> None:
    threshold = Threshold(True, "loss", sign, 2)
    assert [value for value in (1, 2, 3, math.nan) if threshold.is_met(value)] == met
    assert threshold.describe(1.23456) == f"test loss 1.235 {sign} 2"
