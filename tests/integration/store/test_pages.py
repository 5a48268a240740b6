"""Pages of jobs and thinned curves: right, and found by indexes however many jobs and points there are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, update

from benchmarks import history
from dljobs.service import logs, metrics, overview, pages, runs
from dljobs.service.database import Database
from dljobs.service.new_jobs import job_values
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
    fill(database, range(1, NUM_JOBS + 1))
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_((18, 19))).values(state=JobState.QUEUED))
    return database


def fill(database: Database, numbers: range) -> None:
    """Jobs of these ids: of one metric each has another value, of another all have the same."""
    values = job_values(new_job(), 0.0)
    rows = [
        {**values, "id": number, "user": f"u{number % 10}", "model": f"m{number % 20}", "state": STATES[number % 7 + 3]}
        for number in numbers
    ]
    with database.write() as connection:
        connection.execute(insert(jobs), rows)
        found = [{"job_id": row["id"], "metric": "accuracy", "value": row["id"] % 100 / 100} for row in rows]
        found += [{"job_id": row["id"], "metric": "num_samples", "value": 360.0} for row in rows]
        connection.execute(insert(scores), found)
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")


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


def test_a_page_costs_the_same_beside_many_more_jobs(database: Database) -> None:
    def ask(last: int) -> list[int]:
        with database.read() as connection, noted(connection) as asked:
            pages.list_newest(connection)
            pages.list_newest(connection, before_id=last // 2)
            pages.list_newest(connection, user="u3", states=ENDED_JOBS, before_id=last - 5)
            pages.list_newest(connection, model="m3", states=(JobState.FAILED,))
            overview.list_ended(connection, pages.PAGE, with_sets=False)
            for goal in ("max", "min"):
                pages.list_best(connection, "accuracy", goal=goal)
                pages.list_best(connection, "accuracy", goal=goal, after=(0.5, last // 2))
                pages.list_best(connection, "num_samples", goal=goal)
                # Equal values, of which the page takes those in the middle.
                pages.list_best(connection, "num_samples", goal=goal, after=(360.0, last // 2))
        with database.read() as connection:
            return [work(connection, *each) for each in asked]

    few, many = NUM_JOBS // 2, NUM_JOBS * 2
    fill(database, range(1, few + 1))
    beside_few = ask(few)
    fill(database, range(few + 1, many + 1))
    beside_many = ask(many)
    for number, (before, after) in enumerate(zip(beside_few, beside_many, strict=True)):
        assert after <= 1.3 * before, f"query {number}: {before} → {after}"


def test_the_curve_and_the_log_of_a_run_cost_the_same_however_long_it_is(database: Database) -> None:
    def ask(job_id: int) -> int:
        with database.read() as connection:
            run_id = runs.list_runs(connection, [job_id])[0]["id"]
        with database.read() as connection, noted(connection) as asked:
            metrics.list_thinned(connection, run_id, 100)
            logs.list_lines(connection, [run_id], tail=20)
        with database.read() as connection:
            return sum(work(connection, *each) for each in asked)

    short, long = (history.write_long_run(database, number, num_lines=number) for number in (2000, NUM_POINTS))
    history.write_long_run(database, 10, num_lines=NUM_POINTS)  # a log behind theirs
    assert ask(long) <= 1.3 * ask(short)


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


def work(connection: Connection, statement: str, parameters: Any) -> int:
    """How much the database does for a query: steps of SQLite's machine, or rows that Postgres takes in its hand."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("SELECT 1").all()  # begins the transaction
        driver: Any = connection.connection.driver_connection
        num_steps = itertools.count()
        driver.set_progress_handler(lambda: next(num_steps) and 0, 1)
        connection.exec_driver_sql(statement, parameters).all()
        driver.set_progress_handler(None, 0)
        return next(num_steps)
    [plan] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    return num_rows(plan["Plan"])


def num_rows(node: dict[str, Any]) -> int:
    """Of a node of a plan and all below it, those that were thrown away included."""
    thrown = sum(number for key, number in node.items() if key.startswith("Rows Removed by"))
    own = (node["Actual Rows"] + thrown) * node["Actual Loops"]
    return int(own + sum(map(num_rows, node.get("Plans", ()))))


def scans(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """Where the database would go through all of a table, or sort all that it found in one."""
    if connection.dialect.name == "sqlite":
        steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).mappings()
        return [row["detail"] for row in steps if re.match(r"SCAN (jobs|scores|metrics)\b", row["detail"])]
    plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
    return [line for line in plan if re.search(r"(Seq|Bitmap Heap) Scan on (jobs|scores|metrics)\b", line)]
