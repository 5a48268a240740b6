"""Metrics: named numbers of a run over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, delete, insert, select

from .tables import metrics


@dataclass(frozen=True)
class Point:
    """One value of one metric. `at`: the rank's clock, for plots over time only."""

    step: int
    epoch: int
    split: str
    name: str
    value: float
    at: float


def add_points(connection: Connection, run_id: int, points: Sequence[Point]) -> None:
    """Insert points; call it in a transaction that `runs.fenced_update` began."""
    if points:
        rows = [vars(p) | {"run_id": run_id, "value": p.value if math.isfinite(p.value) else None} for p in points]
        connection.execute(insert(metrics), rows)


def list_points(connection: Connection, run_ids: Sequence[int], *, name: str | None = None) -> list[RowMapping]:
    """All points of these runs, by step."""
    query = select(metrics).where(metrics.c.run_id.in_(run_ids))
    if name is not None:
        query = query.where(metrics.c.name == name)
    return list(connection.execute(query.order_by(metrics.c.step, metrics.c.id)).mappings())


def drop_after(connection: Connection, run_id: int, step: int) -> None:
    """Forget the points of a run after `step`."""
    connection.execute(delete(metrics).where(metrics.c.run_id == run_id, metrics.c.step > step))
