"""Moments and sizes as people write them."""

from __future__ import annotations

from datetime import datetime

import pytest

from dljobs.errors import UsageError
from dljobs.service.moments import parse_begin
from dljobs.service.scheduling.rows import ANYWHERE, Condition
from dljobs.service.selectors import from_json, make_selector, parse_bytes, parse_dependency, to_json

NOON = datetime(2030, 1, 31, 12).timestamp()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2h", {"begin_in_s": 7200.0}),
        ("+90", {"begin_in_s": 90.0}),
        ("18:30", {"begin_at": datetime(2030, 1, 31, 18, 30).timestamp()}),
        ("9:05", {"begin_at": datetime(2030, 2, 1, 9, 5).timestamp()}),
        ("2030-03-01 08:00", {"begin_at": datetime(2030, 3, 1, 8).timestamp()}),
        ("2030-03-01", {"begin_at": datetime(2030, 3, 1).timestamp()}),
        ("2030-03-01T08:00+00:00", {"begin_at": 1898582400.0}),
    ],
)
def test_when_to_begin(text: str, found: dict[str, float]) -> None:
    assert parse_begin(text, NOON) == found
    assert parse_begin(None) == {}


@pytest.mark.parametrize("text", ["", "soon", "25:00", "2030-13-01", "-5", "0"])
def test_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match="no moment"):
        parse_begin(text, NOON)


def test_sizes() -> None:
    assert parse_bytes("40G") == 40_000_000_000
    assert parse_bytes("40GiB") == 40 * 2**30
    assert parse_bytes("0.5t") == 500_000_000_000
    for wrong in ("", "0", "G", "40X", "-1G"):
        with pytest.raises(UsageError):
            parse_bytes(wrong)


def test_dependencies() -> None:
    assert parse_dependency("12") == ("12", Condition.OK)
    assert parse_dependency("@:fail") == ("@", Condition.FAIL)
    with pytest.raises(UsageError):
        parse_dependency("12:")


def test_a_selector_survives_its_row() -> None:
    selector = make_selector("RTX 4090", "24G", ["room=b12", "fast=yes"], ["gpu2", "gpu1", "gpu2"])
    assert from_json(to_json(selector)) == selector
    assert to_json(make_selector(None, None)) == "{}"
    assert from_json("{}") is ANYWHERE
