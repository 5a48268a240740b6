"""The sweep: what every worker does every few seconds so that no lost message and no dead process matters.

It ends runs whose lease ran out, tidies what dead writers left, and checkpoints SQLite's log. It only uses guarded
operations, so any number of workers may sweep at the same time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import ends, leases, offers, runs
from .database import Database
from .ends import Notice
from .failures import FailureClass
from .garbage import collect_garbage
from .runs import Outcome

WAL_CHECKPOINT_BYTES = 8 * 1024 * 1024


def expire_leases(database: Database, *, actor: str, is_judge: Callable[[], bool] = lambda: True) -> int:
    """End every run whose worker has let a lease run out; its job goes back in the queue. Returns how many.

    Args:
        is_judge: whether `actor` can tell a worker that is silent from a database that was away. It is asked when the
            transaction has begun: to get that far may have taken as long as the outage.
    """
    with database.read() as connection:
        if not leases.expired_parts(connection):
            return 0
    found: dict[int, Notice] = {}
    with database.write() as connection:
        if not is_judge():
            return 0
        names = {row["id"]: row["name"] for row in offers.list_workers(connection)}
        for part in leases.expired_parts(connection):
            # Look again under a lock: on Postgres its worker may have renewed since. A run ends once for all its parts.
            if part["run_id"] in found or not leases.lock_if_expired(connection, part["run_id"]):
                continue
            what = "went silent" if part["claimed_at"] is not None else "never took it up"
            name = names.get(part["worker_id"], "?")
            reason = f"worker {name} {what}: its lease ran out {part['overdue_s']:.0f} s ago"
            found[part["run_id"]] = Notice(part["run_id"], Outcome(FailureClass.NODE_LOST, reason))
        return len(ends.take_notices(connection, list(found.values()), actor=actor))


def end_runs_of_restarted(database: Database, worker_id: int, *, actor: str) -> int:
    """A worker has just started again under its old name: what it ran before cannot be alive. Returns how many."""
    outcome = Outcome(FailureClass.NODE_LOST, f"worker {actor} was restarted while the run was on it")
    with database.write() as connection:
        lost = [Notice(run["id"], outcome) for run in runs.live_runs_of(connection, worker_id)]
        return len(ends.take_notices(connection, lost, actor=actor))


def tidy(database: Database) -> None:
    """Remove the garbage of the artifact store."""
    collect_garbage(database)


def checkpoint_wal(database: Database) -> None:
    """Move SQLite's write-ahead log into the database file, if it is long; one process on the machine at a time."""
    sqlite_path = Path(database.engine.url.database or "")
    wal = sqlite_path.with_name(sqlite_path.name + "-wal")
    if not wal.exists() or wal.stat().st_size < WAL_CHECKPOINT_BYTES:
        return
    lock = os.open(sqlite_path.with_name(sqlite_path.name + "-checkpoint.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        os.close(lock)
