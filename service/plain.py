"""Plain databases: the driver alone, for a command that asks in text (`statements.py`) and is gone.

Loading SQLAlchemy takes a command longer than all else that it does. What is more than text is refused here, and asked
once more of a whole `Database`; both read and write under the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .connecting import BUSY_TIMEOUT_S, POSTGRES_OPTIONS, SQLITE_PRAGMAS, find_file
from .database_errors import explain
from .settings import Settings, mask
from .statements import NeedsSqlalchemy, Row

_SQLITE_URL = re.compile(r"sqlite:///([^:?%#][^?%#]*)")  # of a file, and without options


class PlainConnection:
    """A transaction of a driver, with as much of SQLAlchemy's `Connection` as text needs."""

    def __init__(self, connection: Any, dialect: str) -> None:
        self._connection = connection
        self.dialect = SimpleNamespace(name=dialect)

    def exec_driver_sql(self, statement: str, values: Mapping[str, Any]) -> Found:
        """Run a statement in the driver's words."""
        cursor = self._connection.execute(statement, values)
        names = [column[0] for column in cursor.description or ()]
        return Found([dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())])


class Found:
    """What a statement has found."""

    def __init__(self, found: Sequence[Row]) -> None:
        self._found = found

    def mappings(self) -> Sequence[Row]:
        """Its rows, by the names of their columns."""
        return self._found


class PlainDatabase:
    """One connection, opened at once; for one thread."""

    def __init__(self, connection: Any, dialect: str, url: str) -> None:
        self._connection = connection
        self._dialect = dialect
        self.is_sqlite = dialect == "sqlite"
        self.shown_url = mask(url)

    @contextmanager
    def read(self) -> Iterator[PlainConnection]:
        """As `Database.read`."""
        with self._transaction("BEGIN" if self.is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY") as it:
            yield it

    @contextmanager
    def write(self) -> Iterator[PlainConnection]:
        """As `Database.write`."""
        with self._transaction("BEGIN IMMEDIATE" if self.is_sqlite else "BEGIN") as it:
            yield it

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[PlainConnection]:
        with _explained(self.shown_url):
            self._connection.execute(begin)
            try:
                yield PlainConnection(self._connection, self._dialect)
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(Exception):  # of a connection that broke, nothing is left to undo
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def _explained(shown_url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if explained := explain(error, shown_url):
            raise explained from error
        raise


def open_plain(settings: Settings) -> PlainDatabase:
    """The database of these settings; raises as `open_database`.

    Raises:
        NeedsSqlalchemy: its URL asks for more than the driver.
    """
    file = _SQLITE_URL.fullmatch(settings.database_url)
    if settings.embedded_database or file is not None:
        path = settings.sqlite_path if file is None else Path(file[1])
        return _open_sqlite(find_file(settings, path))
    if settings.database_url.startswith(("postgres://", "postgresql://")):
        return _open_postgres(settings.database_url)
    raise NeedsSqlalchemy


def _open_sqlite(path: Path) -> PlainDatabase:
    import sqlite3

    url = f"sqlite:///{path}"
    with _explained(url):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    return PlainDatabase(connection, "sqlite", url)


def _open_postgres(url: str) -> PlainDatabase:
    try:
        import psycopg
    except ModuleNotFoundError:
        raise NeedsSqlalchemy from None  # which says what is missing
    with _explained(mask(url)):
        try:
            connection = psycopg.connect(url, autocommit=True, **POSTGRES_OPTIONS)
        except psycopg.ProgrammingError:
            raise NeedsSqlalchemy from None  # the URL is none: it has the words for that, too
    return PlainDatabase(connection, "postgresql", url)
