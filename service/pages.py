"""Pages: the newest jobs, all or some of them, and the best by a metric; a page costs the same however many there are.

Each state is a range of an index of its own that ends with the id, so a page reads no more than its length of each.
The key of the last row asks for the next page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, true, tuple_, union_all

from .states import JobState
from .tables import jobs, scores

PAGE = 25
MAX_METRIC_LENGTH = 100


def list_newest(
    connection: Connection,
    *,
    states: Iterable[JobState] = tuple(JobState),
    user: str | None = None,
    model: str | None = None,
    which: ColumnElement[bool] | None = None,
    before_id: int | None = None,
    limit: int = PAGE,
) -> list[RowMapping]:
    """Jobs, the newest first.

    Args:
        which: only some of them; `jobs.set_id IS NULL` and nothing besides costs no more.
        before_id: go on behind the page that ended with this job.
    """
    wanted = [true() if which is None else which]
    if user is not None:
        wanted.append(jobs.c.user == user)
    if model is not None:
        wanted.append(jobs.c.model == model)
    if before_id is not None:
        wanted.append(jobs.c.id < before_id)
    of_state = [
        select(jobs.c.id).where(jobs.c.state == state, *wanted).order_by(jobs.c.id.desc()).limit(limit).subquery()
        for state in states
    ]
    found = union_all(*(select(each.c.id) for each in of_state)).subquery()
    newest = select(found.c.id).order_by(found.c.id.desc()).limit(limit).subquery()
    page = select(jobs).join(newest, newest.c.id == jobs.c.id).order_by(jobs.c.id.desc())
    return list(connection.execute(page).mappings())


def list_best(
    connection: Connection,
    metric: str,
    *,
    goal: Literal["max", "min"] = "max",
    after: tuple[float, int] | None = None,
    limit: int = PAGE,
) -> list[RowMapping]:
    """Jobs that succeeded, the best by a metric of their results first, each with its `value`.

    Args:
        after: go on behind the job of this value and id.
    """
    key = tuple_(scores.c.value, scores.c.job_id)
    query = select(scores.c.job_id, scores.c.value).where(scores.c.metric == metric)
    if after is not None:
        query = query.where(key < after if goal == "max" else key > after)
    best = query.order_by(*_by(goal, scores.c.value, scores.c.job_id)).limit(limit).subquery()
    page = select(jobs, best.c.value).join(best, best.c.job_id == jobs.c.id)
    page = page.order_by(*_by(goal, best.c.value, best.c.job_id))
    return list(connection.execute(page).mappings())


def _by(goal: str, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return [column.desc() if goal == "max" else column.asc() for column in columns]


def add_scores(connection: Connection, results: Mapping[int, Mapping[str, Any]]) -> None:
    """Note what jobs that succeed have of each metric; `results` are by job."""
    rows = [
        {"job_id": job_id, "metric": metric, "value": float(value)}
        for job_id, result in results.items()
        for metric, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if len(metric) <= MAX_METRIC_LENGTH
    ]
    if rows:
        connection.execute(insert(scores), rows)
