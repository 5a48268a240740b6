"""Moments as people write them: `2h` from now, `18:30` today or tomorrow, `2030-01-31 18:30`; local time."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Any

from dljobs.errors import UsageError

from .durations import parse_duration_s

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def parse_begin(text: str | None, now: float | None = None) -> dict[str, Any]:
    """The field of `NewJob` that `--begin` sets: `begin_in_s` for a duration, `begin_at` for a moment.

    Args:
        now: seconds since 1970; the clock's unless given.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return {}
    text = text.strip()
    here = datetime.fromtimestamp(time.time() if now is None else now)
    try:
        if clock := _CLOCK.fullmatch(text):
            moment = here.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            return {"begin_at": (moment if moment > here else moment + timedelta(days=1)).timestamp()}
        if re.match(r"\d{4}-", text):
            return {"begin_at": datetime.fromisoformat(text).timestamp()}
        if ":" in text:  # 25:00 would be 25 minutes, and is more likely a mistake for a time
            raise ValueError(text)
        return {"begin_in_s": parse_duration_s(text.removeprefix("+"))}
    except (UsageError, ValueError, OverflowError, OSError):
        hint = "write a duration (2h), a time (18:30) or a date and time (2030-01-31 18:30)"
        raise UsageError(f"--begin: {text[:40]!r} is no moment", hint) from None
