"""Asking the same of several jobs: one that cannot be asked does not keep the others from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dljobs.errors import DljobsError

from .output import say


def for_each(job_ids: Iterable[int], ask: Callable[[int], bool | None]) -> tuple[list[int], int]:
    """Ask for each job; returns those that could be asked, and the exit code: that of the first error, or 0.

    Args:
        ask: does it for one job; False if Redis did not answer, so that it takes effect later.
    """
    asked, code = [], 0
    for job_id in job_ids:
        try:
            if ask(job_id) is False:
                say(f"warning: Redis does not answer: job {job_id} waits until a worker next looks at the database")
            asked.append(job_id)
        except DljobsError as error:
            say(f"dljobs: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
            code = code or int(error.exit_code)
    return asked, code
