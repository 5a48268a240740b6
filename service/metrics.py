"""Metrics: named numbers of a run over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import CTE, ColumnElement, Connection, RowMapping, and_, delete, func, insert, select

from .statements import in_batches
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
    """All points of these runs, of each by step."""
    found: list[RowMapping] = []
    for ids in in_batches(run_ids):
        query = select(metrics).where(metrics.c.run_id.in_(ids))
        if name is not None:
            query = query.where(metrics.c.name == name)
        found += connection.execute(query.order_by(metrics.c.step, metrics.c.id)).mappings()
    return found


def list_thinned(connection: Connection, run_id: int, max_points: int) -> list[RowMapping]:
    """The points of a run by step, of each of its curves about `max_points` at even distances, and always the last.

    Points that are left out are not read: each that is taken is looked up in the index.
    """
    found: list[RowMapping] = []
    for name, split in _curves(connection, run_id):
        curve = and_(metrics.c.run_id == run_id, metrics.c.name == name, metrics.c.split == split)
        first = connection.execute(select(func.min(metrics.c.step)).where(curve)).scalar_one()
        last = connection.execute(select(func.max(metrics.c.step)).where(curve)).scalar_one()
        distance = (last - first) // max_points
        query = select(metrics).where(curve)
        if distance > 1:
            taken = _steps_at_distance(curve, distance)
            found += connection.execute(query.where(metrics.c.step == last)).mappings()
            query = query.join(taken, taken.c.step == metrics.c.step).where(metrics.c.step != last)
        found += connection.execute(query).mappings()
    return sorted(found, key=lambda row: (row["step"], row["id"]))


def _curves(connection: Connection, run_id: int) -> list[tuple[str, str]]:
    """Name and split of each curve of a run: from each the index leads to the next."""
    found: list[tuple[str, str]] = []
    name, split = metrics.c.name, metrics.c.split
    query = select(name, split).where(metrics.c.run_id == run_id).order_by(name, split).limit(1)
    row = connection.execute(query).one_or_none()
    while row is not None:
        found.append((row.name, row.split))
        # Not as a pair: SQLite would read all points of this name to find the end of this split.
        following = (and_(name == row.name, split > row.split), name > row.name)
        rows = (connection.execute(query.where(behind)).one_or_none() for behind in following)
        row = next((each for each in rows if each is not None), None)
    return found


def _steps_at_distance(curve: ColumnElement[bool], distance: int) -> CTE:
    """The first step of a curve, and then always the next that is at least so far behind the one before."""
    taken = select(func.min(metrics.c.step).label("step")).where(curve).cte("taken", recursive=True)
    following = select(func.min(metrics.c.step)).where(curve, metrics.c.step >= taken.c.step + distance)
    return taken.union_all(select(following.scalar_subquery()).where(taken.c.step.is_not(None)))


def drop_after(connection: Connection, run_id: int, step: int) -> None:
    """Forget the points of a run after `step`."""
    connection.execute(delete(metrics).where(metrics.c.run_id == run_id, metrics.c.step > step))
