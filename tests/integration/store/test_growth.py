"""No growth: whatever is done again and again costs the database the same beside many finished jobs as beside few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

from benchmarks import history
from dljobs.service import (
    curves,
    explanation,
    jobs,
    leases,
    log_report,
    logs,
    metrics,
    overview,
    registration,
    reports,
    runs,
    sweep,
    usage_report,
)
from dljobs.service.database import Database
from dljobs.service.metrics import Point
from dljobs.service.runs import Outcome

from . import rows

FEW, MANY = 400, 4000
LEASE_S = 60.0
GROWN = ("jobs", "runs", "run_parts", "leases", "events", "scores", "logs", "metrics")  # with every job that has ended


def test_nothing_is_dearer_beside_many_finished_jobs(database: Database) -> None:
    registered = rows.add_worker(database)
    history.finish_jobs(database, FEW)
    do_everything(database, registered)  # what the first time makes is made
    beside_few = cost(database, registered)
    history.finish_jobs(database, MANY - FEW)
    beside_many = cost(database, registered)
    assert beside_few.keys() == beside_many.keys()
    dearer = {
        what: (before, beside_many[what])
        for what, before in beside_few.items()
        if beside_many[what] > 1.2 * before + 50
    }
    assert not dearer


def cost(database: Database, registered: registration.Registration) -> dict[str, int]:
    """What each action costs: steps of SQLite's machine; on Postgres the rows that were read without an index."""
    found: dict[str, int] = {}
    count = Steps(database).count if database.is_sqlite else Scans(database).count

    def note(what: str, action: Callable[[], Any]) -> Any:
        before = count()
        result = action()
        found[what] = count() - before
        return result

    do_everything(database, registered, note)
    return found


def do_everything(
    database: Database, registered: registration.Registration, do: Callable[[str, Callable[[], Any]], Any] | None = None
) -> None:
    """The life of a job, what a worker does meanwhile, and what people ask."""
    do = do or (lambda _what, action: action())
    job_id, key = do("submit and place", lambda: rows.place(database))
    do("begin", lambda: rows.run_it(database, key))
    do("report", lambda: report(database, key.run_id))
    do("beat", lambda: beat(database, registered, key.token))
    do("sweep", lambda: sweep.expire_leases(database, actor="w1"))
    do("status while it runs", lambda: overview.status(database, lease_s=LEASE_S, limit=20))
    do("why", lambda: explanation.explain(database, job_id, lease_s=LEASE_S))
    do("end", lambda: rows.end(database, key, Outcome(None, "trained", result={"accuracy": 0.5})))
    do("show", lambda: reports.job_details(database, job_id, lease_s=LEASE_S))
    do("log", lambda: log_report.list_lines(database, job_id, tail=20))
    do("curves", lambda: curves.load_curves(database, [job_id]))
    do("events", lambda: reports.list_events(database, job_id=job_id, limit=20))
    do("all events", lambda: reports.list_events(database, job_id=None, limit=20))
    do("newest", lambda: reports.list_newest(database))
    do("best", lambda: reports.list_best(database, "accuracy"))
    do("workers", lambda: reports.list_workers(database, lease_s=LEASE_S))
    do("nodes", lambda: reports.list_nodes(database, lease_s=LEASE_S))
    do("usage", lambda: usage_report.usage_report(database))
    waiting = do("submit twice", lambda: {rows.submit(database, idempotency_key=f"k{job_id}") for _ in range(2)})
    do("cancel", lambda: cancel(database, *waiting))
    do("restart", lambda: sweep.end_runs_of_restarted(database, registered.worker_id, actor="w1"))
    do("unclaimed", lambda: unclaimed(database, registered))


def unclaimed(database: Database, registered: registration.Registration) -> None:
    with database.read() as connection:
        assert runs.unclaimed_keys(connection, registered.worker_id) == []


def cancel(database: Database, job_id: int) -> None:
    with database.write() as connection:
        jobs.request_cancel(connection, job_id, actor="ada")


def report(database: Database, run_id: int) -> None:
    with database.write() as connection:
        logs.add_lines(connection, run_id, [(0, "a line")] * 10)
        metrics.add_points(connection, run_id, [Point(step, 1, "train", "loss", 0.5, 0.0) for step in range(1, 11)])


def beat(database: Database, registered: registration.Registration, token: str) -> None:
    with database.write() as connection:
        assert registration.beat(connection, registered)
        assert leases.renew(connection, registered.worker_id, [token], LEASE_S) == {token}


class Steps:
    """Counts the steps of SQLite's machine, in all connections of a database."""

    def __init__(self, database: Database) -> None:
        self._num = 0
        event.listen(database.engine, "checkout", self._listen)

    def count(self) -> int:
        return self._num

    def _listen(self, connection: Any, *_others: Any) -> None:
        connection.set_progress_handler(self._note, 1)

    def _note(self) -> int:
        self._num += 1
        return 0


class Scans:
    """Counts the rows that Postgres reads from growing tables without an index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        names = ", ".join(f"'{name}'" for name in GROWN)
        query = f"SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ({names})"
        with self._database.write() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
        with self._database.write() as connection:
            return int(connection.execute(text(query)).scalar_one())
