"""Bounds: what a number, a priority and a name that a user gives have to be within; the message has the nearest."""

from __future__ import annotations

import math
import re
from typing import Literal

from dljobs.errors import UsageError

NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}")


def check_range(what: str, value: float, lowest: float, highest: float) -> None:
    """Make sure that a number is within its bounds.

    Raises:
        UsageError: it is not; the hint has the nearest that is.
    """
    if not lowest <= value <= highest:  # also refuses NaN
        nearest: float | Literal["a number"] = "a number" if math.isnan(value) else min(max(value, lowest), highest)
        raise UsageError(f"{what} must be between {lowest:g} and {highest:g}, not {value:g}", f"nearest: {nearest}")


def check_text(what: str, text: str) -> str:
    """The text, if it can name something.

    Raises:
        UsageError: it is empty, too long, or not printable.
    """
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise UsageError(f"a {what} is 1 to 200 printable characters, not {text[:40]!r}")
    return text


def check_priority(priority: int, ceiling: int) -> None:
    """A priority is 0 to 100, and not above the ceiling.

    Raises:
        UsageError: it is another.
    """
    check_range("priority", priority, 0, 100)
    if priority > ceiling:
        raise UsageError(f"priority {priority} is above {ceiling}, the highest allowed here", f"nearest: {ceiling}")
