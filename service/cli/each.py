"""Asking the same of several jobs and sets: one that cannot be asked does not keep the others from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dljobs.errors import DljobsError

from .output import say

if TYPE_CHECKING:
    from dljobs.service.names import Target


def for_each(targets: Iterable[Target], ask: Callable[[Target], bool | None]) -> tuple[list[Target], int]:
    """Ask for each; returns those that could be asked, and the exit code: that of the first error, or 0.

    Args:
        ask: does it for one; False if Redis did not answer, so that it takes effect later.
    """
    asked: list[Target] = []
    code = 0
    for target in targets:
        try:
            if ask(target) is False:
                say(f"warning: Redis does not answer: {target} waits until a worker next looks at the database")
            asked.append(target)
        except DljobsError as error:
            say(f"dljobs: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
            code = code or int(error.exit_code)
    return asked, code
