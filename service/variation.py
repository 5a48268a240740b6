"""Variations: how the jobs of a set differ, as a user asks for it; `set_submission.py` makes the jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dljobs.errors import UsageError


@dataclass(frozen=True)
class Variation:
    """How the jobs of a set differ, and how many of them may run at a time."""

    array: str | None = None
    sweeps: Sequence[str] = ()
    trials: int | None = None
    search_seed: int | None = None
    max_parallel: int | None = None
    halving: str | None = None

    @property
    def makes_a_set(self) -> bool:
        """Whether there is more than one job to submit.

        Raises:
            UsageError: there is not, and something was asked that only a set can do.
        """
        if self.array is not None or self.sweeps:
            return True
        for name in ("trials", "search_seed", "max_parallel", "halving"):
            if getattr(self, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is about a set of jobs", "give --sweep or --array, too")
        return False
