"""The floor of a submission: what the driver alone takes to insert a row like a job's and have it on the disk.

Into a table without an index, on the same disk or server, with the same settings.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator

from dljobs.service.connecting import SQLITE_PRAGMAS
from dljobs.service.submission import Request, prepare

from .service import Service
from .stores import connect_bare

_TABLE = "CREATE TABLE bare (id {}, row text)"


@contextlib.contextmanager
def bare_commits(service: Service) -> Iterator[Callable[[int], float]]:
    """Yields a function that commits so many rows, one after the other, and returns the seconds it took."""
    row = prepare(Request("lenet"), "benchmark").spec.to_json() * 2  # with its other columns and its event
    with _sqlite(service) if service.database.is_sqlite else _postgres(service) as commit:

        def run(number: int) -> float:
            begin = time.monotonic()
            for _ in range(number):
                commit(row)
            return time.monotonic() - begin

        yield run


@contextlib.contextmanager
def _sqlite(service: Service) -> Iterator[Callable[[str], object]]:
    path = service.settings.home / "bare.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(_TABLE.format("INTEGER PRIMARY KEY"))
        yield lambda row: connection.execute("INSERT INTO bare (row) VALUES (?)", (row,))


@contextlib.contextmanager
def _postgres(service: Service) -> Iterator[Callable[[str], object]]:
    with contextlib.closing(connect_bare(service.database)) as connection:
        connection.execute(_TABLE.format("bigserial"))
        yield lambda row: connection.execute("INSERT INTO bare (row) VALUES (%s)", (row,))
