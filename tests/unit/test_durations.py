"""Durations as people write and read them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import UsageError
from dljobs.service.durations import parse_duration_s, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("15m", 900),
        ("1.5h", 5400),
        ("2h", 7200),
        ("1d12h", 129600),
        ("1h30m10s", 5410),
        ("1:30", 90),
        ("1:30:00", 5400),
        (" 5m ", 300),
    ],
)
def test_what_is_understood(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "5x", "m", "1h-2m", "1:3", "nan", "inf", "1e9", "400d", "2 h"])
def test_what_is_not(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration_s(text)
    assert repr(text.strip()) in caught.value.message
    assert "15m" in caught.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (9.9, "9.9s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (86399.6, "1d00h"),
        (90000, "1d01h"),
    ],
)
def test_how_they_are_shown(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.integers(min_value=10, max_value=366 * 86400))
def test_what_is_shown_is_understood_and_nearly_right(seconds: int) -> None:
    assert parse_duration_s(show_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.5)


@given(st.text())
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert 0 < parse_duration_s(text) <= 366 * 86400
