"""Ranking: the jobs of a set by the metric they are compared by, the best first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from dljobs.errors import NotFound

from .states import JobState
from .tables import jobs, metrics, runs, sets


@dataclass(frozen=True)
class Standing:
    """How a job of a set did: the best value on the test data so far, None before the first."""

    job: RowMapping  # id, set_index, state, failure_class, reason, point_json, num_epochs
    value: float | None
    epoch: int | None  # how far it came


def rank_jobs(connection: Connection, the_set: Mapping[Any, Any]) -> list[Standing]:
    """All jobs of a set (its row), the best first, those without a value last; equal ones by their index."""
    columns = ("id", "set_index", "state", "failure_class", "reason", "point_json", "num_epochs", "result_json")
    rows = connection.execute(select(*(jobs.c[name] for name in columns)).where(jobs.c.set_id == the_set["id"]))
    measured = _measured(connection, the_set)
    found = []
    for row in rows.mappings():
        value, epoch = measured.get(row["id"], (None, None))
        if row["state"] == JobState.SUCCEEDED and row["result_json"] is not None:
            value = _best_of(json.loads(row["result_json"]), the_set["metric"])
        found.append(Standing(row, value, epoch))
    sign = -1.0 if the_set["goal"] == "max" else 1.0
    return sorted(
        found,
        key=lambda each: (each.value is None, 0.0 if each.value is None else sign * each.value, each.job["set_index"]),
    )


def best_id(connection: Connection, set_id: int) -> int:
    """The job that did best among those that succeeded.

    Raises:
        NotFound: none has yet.
    """
    the_set = connection.execute(select(sets).where(sets.c.id == set_id)).mappings().one()
    for standing in rank_jobs(connection, the_set):
        if standing.job["state"] == JobState.SUCCEEDED and standing.value is not None:
            return int(standing.job["id"])
    raise NotFound(f"no job of s{set_id} has succeeded yet", f"`dljobs sweep s{set_id}` shows how they stand")


def _measured(connection: Connection, the_set: Mapping[Any, Any]) -> dict[int, tuple[float | None, int]]:
    """By job: the best value that any evaluation found, and the last epoch that had one."""
    best = func.max if the_set["goal"] == "max" else func.min
    of_metric = (metrics.c.name == the_set["metric"]) & (metrics.c.split == "test")
    query = (
        select(jobs.c.id, best(metrics.c.value), func.max(metrics.c.epoch))
        .join(runs, runs.c.job_id == jobs.c.id)
        .join(metrics, (metrics.c.run_id == runs.c.id) & of_metric)
        .where(jobs.c.set_id == the_set["id"])
        .group_by(jobs.c.id)
    )
    return {job_id: (value, epoch) for job_id, value, epoch in connection.execute(query)}


def _best_of(result: Mapping[str, Any], metric: str) -> float | None:
    """What `--checkpoint best` has, by the result of a run."""
    best = result.get("best") or {}
    value = best.get("value") if best.get("metric") == metric else result.get(metric)
    return float(value) if isinstance(value, int | float) else None
