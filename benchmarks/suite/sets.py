"""Submitting a set: how long an array of thousands of jobs takes from its options to the ring, per database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.result import Result, Values, Verdict
from benchmarks.stores import Store, connect_bare, postgres_store, sqlite_store
from dljobs.service import sets, standing
from dljobs.service.doorbell import Doorbell
from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.set_submission import enqueue_set, prepare_set
from dljobs.service.submission import Request
from dljobs.service.tables import events, jobs
from dljobs.service.variation import Variation

NUM_JOBS, SMOKE_JOBS = 10_000, 200
MAX_SUBMISSION_S = 2.0
TRIED = (
    "Tried: RETURNING the ids of the jobs: on Postgres 3.09 instead of 0.77 s of the client's CPU and 12.5 instead of "
    "3.3 s in all, on SQLite no difference (10,000 jobs, 5 and 2 rounds, on 2 cores of which others used 88%).",
)
_DLJOBS, _BARE = "dljobs", "bare driver"
_WALL, _CPU = "wall", "CPU of the client"
_TABLES = (jobs, events)  # what a submission writes a row of for each job


def measure(sitting: Sitting) -> Result:
    """On each database the submission, and then the very rows that it wrote once more, by the driver alone."""
    values, notes = Values(), list(TRIED)
    number = SMOKE_JOBS if sitting.is_smoke else NUM_JOBS
    with contextlib.ExitStack() as stack:
        stores = {"SQLite": stack.enter_context(sqlite_store(sitting.folder / "s"))}
        try:
            stores["Postgres"] = stack.enter_context(postgres_store(sitting.folder / "p"))
        except ImportError as error:
            notes.append(f"Postgres was left out: {error}")
        for name, store in stores.items():
            redis = EmbeddedRedis(store.settings.home)
            stack.callback(redis.stop)
            redis.start()
            doorbell = Doorbell(store.settings)
            rows = _rows_of(store, _submit(store, doorbell, number))  # which warms up, too
            peers: dict[str, Callable[[], object]] = {
                _DLJOBS: lambda store=store, doorbell=doorbell: _submit(store, doorbell, number),  # type: ignore[misc]
                _BARE: lambda store=store, rows=rows: _insert_bare(store, rows),  # type: ignore[misc]
            }
            sitting.say(f"{number} jobs on {name}")
            for peer in interleaved(list(peers), sitting.num_rounds):
                begun, begun_cpu = time.perf_counter(), time.process_time()
                peers[peer]()
                values.add(f"{number:,} jobs, {name}", _WALL, peer, time.perf_counter() - begun)
                values.add(f"{number:,} jobs, {name}", _CPU, peer, time.process_time() - begun_cpu)
                _clear(store)
    result = Result(values.series())
    notes += [
        f"{each.case}, {each.quantity}: {1e6 * each.median / number:.0f} µs a job by {each.peer}"
        for each in result.series
    ]
    return Result(result.series, _judge(result), tuple(notes))


def _submit(store: Store, doorbell: Doorbell, number: int) -> int:
    new = prepare_set(Request("lenet"), Variation(array=f"0-{number - 1}"), "benchmark")
    return enqueue_set(store.database, doorbell, store.settings, new).set_id


def _rows_of(store: Store, set_id: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """The statement and the rows of each table, as the driver takes them."""
    found = []
    mark = "?" if store.database.is_sqlite else "%s"
    with store.database.write() as connection:
        members = select(jobs.c.id).where(jobs.c.set_id == set_id)
        for table, of_set in ((jobs, jobs.c.set_id == set_id), (events, events.c.job_id.in_(members))):
            rows = [tuple(row) for row in connection.execute(select(table).where(of_set))]
            # No indexes, no constraints: what is left is the database's own cost of taking rows.
            connection.exec_driver_sql(f"CREATE TABLE bare_{table.name} AS SELECT * FROM {table.name} WHERE 1 = 0")
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            marks = ", ".join([mark] * len(table.columns))
            found.append((f"INSERT INTO bare_{table.name} ({names}) VALUES ({marks})", rows))
    _clear(store)
    return found


def _insert_bare(store: Store, rows: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
    with contextlib.closing(connect_bare(store.database)) as connection:
        connection.execute("BEGIN")
        cursor = connection.cursor()
        for statement, values in rows:
            cursor.executemany(statement, values)
        connection.execute("COMMIT")


def _clear(store: Store) -> None:
    """No round finds more in the queue, or in a log, than the one before."""
    with store.database.write() as connection:
        for row in standing.list_sets(connection, 0):
            sets.cancel_set(connection, row["id"], actor="benchmark")
        for table in _TABLES:
            connection.exec_driver_sql(f"DELETE FROM bare_{table.name}")
    store.settle()


def _judge(result: Result) -> tuple[Verdict, ...]:
    return tuple(
        Verdict(f"{each.case}: seconds of a submission", each.median, MAX_SUBMISSION_S)
        for each in result.series
        if (each.peer, each.quantity) == (_DLJOBS, _WALL)
    )


BENCHMARK = Benchmark(
    name="sets",
    title="Submitting a set",
    about=(
        "An array of 10,000 jobs, through the Python API: each point made a whole spec and held against the catalog, "
        "all rows in one transaction (a job and an event each), the ring to a real Redis, and the plan that says what "
        "stands in the way. **bare driver** (sqlite3, psycopg) inserts the same rows, byte by byte, into tables "
        "without indexes or constraints, in one transaction by `executemany`: the floor. CPU is that of the client: "
        "SQLite's work is in it, the Postgres server's is not."
    ),
    baselines=(_BARE,),
    num_rounds=5,
    measure=measure,
)
