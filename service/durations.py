"""Durations as people write them: `90`, `90s`, `15m`, `2h`, `1d12h`, `1:30:00`."""

from __future__ import annotations

import re

from dljobs.errors import UsageError

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})")
_PARTS = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse_duration_s(text: str) -> float:
    """Seconds meant by `text`; a bare number is seconds.

    Raises:
        UsageError: it is no duration, or not above zero, or longer than a year.
    """
    text = text.strip()
    seconds = 0.0
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = hours * 3600.0 + minutes * 60.0 + rest
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif text and _PARTS.sub("", text) == "":
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PARTS.findall(text))
    if not 0 < seconds <= 366 * 86400:
        raise UsageError(f"{text!r} is no duration", "write seconds (90), 90s, 15m, 2h, 1d12h or 1:30:00")
    return seconds


def show_duration(seconds: float) -> str:
    """Two units at most: `0.4s`, `59s`, `3m20s`, `2h05m`, `4d03h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
