"""Pages of jobs and thinned curves: right, and found by indexes however many jobs and points there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select

from dljobs.service import metrics, pages
from dljobs.service.database import Database
from dljobs.service.jobs import job_values
from dljobs.service.reports import list_best, list_newest
from dljobs.service.runs import Outcome
from dljobs.service.states import ENDED_JOBS, JobState
from dljobs.service.tables import jobs, scores

from .rows import end, new_job, start

NUM_JOBS, NUM_POINTS = 6000, 20_000
STATES = (JobState.SUCCEEDED,) * 8 + (JobState.FAILED, JobState.CANCELLED)


@pytest.fixture
def full(database: Database) -> Database:
    """Finished jobs of 10 users and 20 models, two of them in the queue, and scores with ties."""
    values = job_values(new_job(), 0.0)
    rows = [
        {**values, "id": number, "user": f"u{number % 10}", "model": f"m{number % 20}", "state": STATES[number % 7 + 3]}
        for number in range(1, NUM_JOBS + 1)
    ]
    rows[17]["state"] = rows[18]["state"] = JobState.QUEUED
    with database.write() as connection:
        connection.execute(insert(jobs), rows)
        found = [{"job_id": row["id"], "metric": "accuracy", "value": row["id"] % 100 / 100} for row in rows]
        connection.execute(insert(scores), found)
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return database


def test_the_newest_come_page_by_page(full: Database) -> None:
    with full.read() as connection:
        newest = pages.list_newest(connection, limit=40)
        assert [row["id"] for row in newest] == list(range(NUM_JOBS, NUM_JOBS - 40, -1))
        second = pages.list_newest(connection, before_id=newest[24]["id"], limit=15)
        assert second == newest[25:]
        wanted = {"states": (JobState.FAILED, JobState.QUEUED), "user": "u8"}
        everything = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.user == "u8")).all()
        expected = sorted((row.id for row in everything if row.state in ("failed", "queued")), reverse=True)
        seen: list[int] = []
        while page := pages.list_newest(connection, **wanted, before_id=seen[-1] if seen else None):
            seen += [row["id"] for row in page]
        assert seen == expected
        assert 18 in seen
    assert [job["id"] for job in list_newest(full, model="m3", limit=2)] == [5983, 5963]


@pytest.mark.parametrize("goal", ["max", "min"])
def test_the_best_come_page_by_page(full: Database, goal: Any) -> None:
    with full.read() as connection:
        first = pages.list_best(connection, "accuracy", goal=goal, limit=100)
        last = first[-1]
        second = pages.list_best(connection, "accuracy", goal=goal, after=(last["value"], last["id"]), limit=100)
    found = [(row["value"], row["id"]) for row in (*first, *second)]
    ordered = sorted(((number % 100 / 100, number) for number in range(1, NUM_JOBS + 1)), reverse=goal == "max")
    assert found == ordered[:200]
    assert list_best(full, "nothing of that name") == []


def test_a_job_that_succeeds_has_its_numbers_as_scores(database: Database) -> None:
    job_id, run = start(database)
    result = {"accuracy": 0.75, "loss": float("nan"), "stopped": True, "best": {"epoch": 2}, "num_samples": 20}
    end(database, run, Outcome(None, "done", result=result))
    with database.read() as connection:
        found = connection.execute(select(scores.c.metric, scores.c.value).where(scores.c.job_id == job_id)).all()
    assert {row.metric: row.value for row in found} == {"accuracy": 0.75, "num_samples": 20.0}
    [best] = list_best(database, "accuracy")
    assert (best["id"], best["value"]) == (job_id, 0.75)


def test_pages_read_no_table_as_a_whole(full: Database) -> None:
    with full.read() as connection, noted(connection) as asked:
        pages.list_newest(connection)
        pages.list_newest(connection, user="u3", states=ENDED_JOBS, before_id=4000)
        pages.list_newest(connection, model="m3")
        pages.list_newest(connection, states=ENDED_JOBS, which=jobs.c.set_id.is_(None))
        pages.list_best(connection, "accuracy")
        pages.list_best(connection, "accuracy", goal="min", after=(0.5, 7))
    assert len(asked) == 6
    with full.read() as connection:
        for statement, parameters in asked:
            assert scans(connection, statement, parameters) == [], statement


def test_a_long_curve_is_thinned_by_the_index(database: Database) -> None:
    _job_id, run = start(database)
    points = [metrics.Point(step, 1, "train", "loss", float(step), 0.0) for step in range(1, NUM_POINTS + 1)]
    points += [metrics.Point(step, 1, "test", "accuracy", float(step), 0.0) for step in (1000, 2000, 3000)]
    with database.write() as connection:
        metrics.add_points(connection, run.run_id, points)
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    with database.read() as connection, noted(connection) as asked:
        found = metrics.list_thinned(connection, run.run_id, 100)
    losses = [row["step"] for row in found if row["name"] == "loss"]
    assert losses == [*range(1, NUM_POINTS, (NUM_POINTS - 1) // 100), NUM_POINTS]
    assert [row["value"] for row in found if row["split"] == "test"] == [1000.0, 2000.0, 3000.0]
    with database.read() as connection:
        assert metrics.list_thinned(connection, run.run_id, NUM_POINTS) == metrics.list_points(connection, [run.run_id])
        for statement, parameters in asked:
            assert scans(connection, statement, parameters) == [], statement


@contextmanager
def noted(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The SELECTs that are asked meanwhile, with their parameters."""
    asked: list[tuple[str, Any]] = []

    def note(_connection, _cursor, statement, parameters, _context, _many):  # type: ignore[no-untyped-def]
        if statement.lstrip().startswith(("SELECT", "WITH")):
            asked.append((statement, parameters))

    event.listen(connection.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(connection.engine, "before_cursor_execute", note)


def scans(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """Where the database would go through all of a table, or sort all that it found in one."""
    if connection.dialect.name == "sqlite":
        steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).mappings()
        return [row["detail"] for row in steps if re.match(r"SCAN (jobs|scores|metrics)\b", row["detail"])]
    plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
    return [line for line in plan if re.search(r"(Seq|Bitmap Heap) Scan on (jobs|scores|metrics)\b", line)]
