"""The judge of a trial: has its set judged when the trial is measured at a rung, and tells those who are to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from dljobs.service import pruning, sets
from dljobs.service.halving import Rule
from dljobs.service.metrics import Point

Ring = Callable[[str, int], object]  # the worker's name, and the run of which something is asked


class Judge:
    """Of one run of a trial."""

    def __init__(self, set_id: int, rule: Rule, ring: Ring) -> None:
        self._set_id = set_id
        self._rule = rule
        self._rungs = rule.rungs(pruning.LONGEST)
        self._ring = ring
        self._to_ring: list[tuple[str, int]] = []

    def look(self, connection: Connection, points: Sequence[Point]) -> None:
        """Judge the set if these points, just written, are news at a rung."""
        self._to_ring = []
        if any(
            point.split == pruning.SPLIT and point.name == self._rule.metric and point.epoch in self._rungs
            for point in points
        ):
            placed = pruning.judge(connection, self._set_id, self._rule)
            self._to_ring = sets.live_runs(connection, placed) if placed else []

    def tell(self) -> None:
        """The transaction is committed: ring the workers of those who are to stop."""
        for worker, run_id in self._to_ring:
            self._ring(worker, run_id)
        self._to_ring = []
