"""The scheduler's plan for the rows as they are: what `dispatch` carries out and every explanation is read from."""

from __future__ import annotations

from functools import cached_property

from .policy import ServicePolicy
from .scheduling.expectations import expected_starts
from .scheduling.explaining import Explainer
from .scheduling.planning import Plan, plan
from .scheduling.reasons import Reason
from .scheduling.rows import Placed
from .snapshot import take_snapshot
from .statements import AnyConnection


class Planned:
    """The scheduler's plan for the rows as they are, and what it says to people; each thing is computed when asked."""

    def __init__(self, decided: Plan, policy: ServicePolicy) -> None:
        self.plan = decided
        self.policy = policy
        self.worker_names = {worker.id: worker.name for worker in decided.snapshot.workers}

    @property
    def placed(self) -> list[Placed]:
        """What starts now."""
        return self.plan.placed

    def reasons(self, job_id: int) -> list[Reason]:
        """Why a job waits, worst first; empty if it starts, or does not wait."""
        return self._explainer.reasons(job_id)

    def place(self, job_id: int) -> int | None:
        """A job's place in the queue, from 1, among those that wait only for devices."""
        return self._explainer.place(job_id)

    def expected_start_at(self, job_id: int) -> float | None:
        """When the job is likely to start; None: nobody knows."""
        return self._starts.get(job_id)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.plan)

    @cached_property
    def _starts(self) -> dict[int, float]:
        starts = expected_starts(self.plan, self._explainer.starters)
        return {**starts, **{placed.job_id: self.plan.snapshot.now for placed in self.plan.placed}}


def make_plan(connection: AnyConnection, *, lease_s: float, only: int | None = None) -> Planned:
    """The plan; writes nothing.

    Args:
        only: plan as if no other job waited: what stands in the way of this one whoever is before it, at a cost that
            does not grow with the queue.
    """
    snapshot, policy = take_snapshot(connection, lease_s=lease_s, only=only)
    return Planned(plan(snapshot, policy.scheduling), policy)
