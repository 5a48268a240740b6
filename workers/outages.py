"""Outages: doing what needs the database, however long it is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dljobs.errors import OUTAGES

RETRY_AFTER_S = 2.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


def outlast(work: Callable[[], T], who: str, *, check: Callable[[], None]) -> T:
    """Call `work` until no outage ends it, and return what it returned.

    Args:
        work: is called again as a whole.
        who: is named in the worker's log as waiting.
        check: called before each attempt; what it raises ends the wait.
    """
    while True:
        check()
        try:
            return work()
        except OUTAGES as error:
            logger.warning("%s waits for the database: %s", who, error.message)
            time.sleep(RETRY_AFTER_S)
