"""Waiting in tests: for an event, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str | Callable[[], str]) -> T:
    """Poll until `predicate()` is true and return what it returned.

    Args:
        what: what was waited for; a function is called only when it did not come, to tell how things stand then.

    Raises:
        TimeoutError: it did not become true within `timeout_s`; the message holds `what`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)
