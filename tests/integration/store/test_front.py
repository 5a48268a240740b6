"""What dispatch reads of the queue: the first of each line, however long the lines are."""

from __future__ import annotations

import pytest
from sqlalchemy import event, update

from dljobs.service import dispatch as dispatching
from dljobs.service import front
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.front import read_front
from dljobs.service.planned import make_plan
from dljobs.service.tables import jobs

from .rows import LEASE_S, add_worker, submit, submit_set

COLUMNS = "jobs.id, jobs.user"


def lines_of(database: Database, length: int) -> tuple[list[int], frozenset[int]]:
    with database.read() as connection:
        found = read_front(connection, COLUMNS, length)
    return sorted(row["id"] for row in found.rows), found.last_ids


def test_the_first_of_each_line_are_read_in_the_order_of_submission(database: Database) -> None:
    urgent = submit(database, priority=90)
    ada = [submit(database) for _ in range(4)]
    bob = [submit(database, user="bob") for _ in range(2)]
    held = [submit(database, held=True) for _ in range(3)]
    with database.write() as connection:  # who was submitted first is first, whatever its id
        connection.execute(update(jobs).where(jobs.c.id == ada[3]).values(submitted_at=0.0))
    read, last_ids = lines_of(database, 2)
    assert read == sorted([urgent, ada[3], ada[0], *bob, *held[:2]])
    assert last_ids == {ada[0], bob[1], held[1]}, "the line of the urgent one is shown to be at its end"
    assert lines_of(database, 5) == (sorted([urgent, *ada, *bob, *held]), frozenset())


def test_those_that_devices_are_kept_for_are_read_wherever_they_stand(database: Database) -> None:
    first, _second, third = (submit(database) for _ in range(3))
    with database.read() as connection:
        found = read_front(connection, COLUMNS, 1, also=[third, 12345])
    assert sorted(row["id"] for row in found.rows) == [first, third]


def test_many_lines_are_read_as_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [submit(database, user=f"user-{number % 3}") for number in range(9)]
    monkeypatch.setattr(front, "MAX_LINES", 2)
    assert lines_of(database, 1) == (ids, frozenset())


@pytest.mark.parametrize("num_devices", [1, 4, 40])
def test_dispatch_places_what_the_plan_of_the_whole_queue_says(database: Database, num_devices: int) -> None:
    submit(database, 2, priority=60)
    submit_set(database, 20, max_parallel=3)
    for number in range(20):
        submit(database, user="ada" if number % 2 else "bob", num_devices=1 + number % 3)
    add_worker(database, num_devices=num_devices)
    with database.read() as connection:
        wanted = [each.job_id for each in make_plan(connection, lease_s=LEASE_S).placed]
    dispatch(database, lease_s=LEASE_S)
    with database.read() as connection:
        started = connection.execute(jobs.select().where(jobs.c.state == "starting")).mappings().all()
    assert sorted(row["id"] for row in started) == sorted(wanted)


def test_it_reads_on_where_the_first_of_a_line_cannot_start(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "FRONTS", (2, 4, None))
    for _ in range(9):
        submit(database, num_devices=3)
    small = submit(database)
    add_worker(database, num_devices=2)
    dispatch(database, lease_s=LEASE_S)
    with database.read() as connection:
        state = connection.execute(jobs.select().where(jobs.c.id == small)).mappings().one()["state"]
    assert state == "starting"


def test_a_dispatch_costs_the_same_beside_a_long_queue(database: Database) -> None:
    """As many rows are fetched, by the index of lines; nothing sorts the queue."""
    add_worker(database)
    submit_set(database, 300)
    asked: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement, parameters, _context, _many):  # type: ignore[no-untyped-def]
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    read, _last_ids = lines_of(database, 10)
    event.remove(database.engine, "before_cursor_execute", note)
    assert len(read) == 10
    if not database.is_sqlite:
        return
    with database.read() as connection:
        for statement, parameters in asked:
            if statement.lstrip().startswith(("SELECT", "WITH")):
                steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).mappings()  # type: ignore[arg-type]
                details = [step["detail"] for step in steps]
                assert not any("SCAN jobs" in detail or "TEMP B-TREE" in detail for detail in details), details
