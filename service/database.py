"""Connections to SQLite and Postgres: how they are opened, and what a reading and a writing transaction are.

It knows drivers and pragmas; it knows no table. Queries stand in the file of the noun they ask about.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, Update, bindparam, create_engine, event, make_url, text, update
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, NoSuchModuleError

from dljobs.errors import UsageError

from .connecting import BUSY_TIMEOUT_S, POSTGRES_OPTIONS, SQLITE_PRAGMAS, find_file
from .database_errors import explain
from .settings import Settings, mask


class Database:
    """One database, opened lazily; safe to share between threads, closed with `close`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown_url = mask(url)
        self.engine = _create_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writer = self.engine.execution_options(dljobs_write=True)
        self._careless_writer = self.engine.execution_options(dljobs_write=True, dljobs_durable=False)
        # SQLite's readers always see one moment.
        one_moment = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self.engine.execution_options(**one_moment)
        alone = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._asker = self.engine.execution_options(**alone)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment and changes nothing."""
        with self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def ask(self) -> Iterator[Connection]:
        """For queries that need not see the same moment: on Postgres it spares the round trips of a transaction."""
        with self._translated(), self._asker.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, or not at all.

        On SQLite it takes the write lock at once: a transaction that reads first and writes later would fail with
        "database is locked" whatever the busy timeout, because its snapshot may be stale by then.

        Args:
            durable: False spares the wait for the disk: a power cut may undo the transaction, unless a durable one came
                after it, which makes all before it last. Nothing is ever undone in part, or in another order.
        """
        writer = self._writer if durable else self._careless_writer
        with self._translated(), writer.begin() as connection:
            if not durable and not self.is_sqlite:
                connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            explained = explain(error.orig, self.shown_url)
            if explained is None:
                raise
            raise explained from error


def open_database(settings: Settings, *, create: bool = False) -> Database:
    """The database of these settings.

    Args:
        create: make the embedded database's file if there is none.

    Raises:
        Unreachable: there is no file yet, or none can be there, or it lies on a network file system.
        UsageError: the URL is none, or its driver is not installed.
    """
    path = _sqlite_path(settings.sqlalchemy_url)
    if path is not None:
        find_file(settings, path, create=create)
    return Database(settings.sqlalchemy_url)


def _create_engine(url: str) -> Engine:
    try:
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = create_engine(url, connect_args=POSTGRES_OPTIONS)
            event.listen(engine, "checkout", _look_for_a_hang_up)
    except NoSuchModuleError:
        raise UsageError(
            f"{mask(url)} is no database dljobs can use", "give a postgresql:// or sqlite:/// URL"
        ) from None
    except ModuleNotFoundError as error:
        raise UsageError(f"the driver {error.name} is not installed", "pip install 'dljobs[postgres]'") from None
    except Exception as error:
        raise UsageError(f"{mask(url)!r} is no database URL: {error}") from None
    return engine


def _look_for_a_hang_up(connection: Any, _record: Any, _proxy: Any) -> None:
    """A connection whose server was restarted is replaced before it is used, and with it all others of the pool.

    A server that has been asked nothing says nothing unless it ends, so this takes no round trip, as a ping does.
    """
    poll = select.poll()
    try:
        poll.register(connection.pgconn.socket, select.POLLIN)  # which one that is closed has not
        if poll.poll(0):
            connection.execute("SELECT 1")
            connection.rollback()
    except connection.Error as error:
        raise InvalidatePoolError from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see `write`
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("dljobs_write"):
        # NORMAL syncs the log only before it is moved into the file; FULL syncs all of it at each commit.
        wanted = "FULL" if options.get("dljobs_durable", True) else "NORMAL"
        if connection.info.get("synchronous") != wanted:
            connection.exec_driver_sql(f"PRAGMA synchronous={wanted}")
            connection.info["synchronous"] = wanted
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("dljobs_write") else "BEGIN")


def update_each(connection: Connection, table: Table, changes: Mapping[int, Mapping[str, Any]]) -> None:
    """Give each of these rows, by id, its own new values: a statement for all that change the same columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row_id, values in changes.items():
        by_columns.setdefault(tuple(values), []).append({"of_row": row_id, **values})
    for columns, rows in by_columns.items():
        connection.execute(_update_by_id(table, columns), rows)


@lru_cache(maxsize=256)
def _update_by_id(table: Table, columns: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    return update(table).where(table.c.id == bindparam("of_row")).values(values)


class Lock(IntEnum):
    """What one transaction at a time may do: the keys of Postgres' advisory locks."""

    SCHEDULING = 7160201
    REGISTRATION = 7160202
    MIGRATION = 7160203


def wait_for_lock(connection: Connection, lock: Lock) -> None:
    """Take the lock until the end of this transaction, when whoever holds it is done.

    On SQLite the write lock that the transaction already has is the same thing.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": int(lock)})


def _sqlite_path(url: str) -> Path | None:
    if not url.startswith("sqlite"):
        return None
    name = make_url(url).database
    if not name or name == ":memory:":
        raise UsageError("an in-memory SQLite database cannot be shared", "give a file: sqlite:////path/to/dljobs.db")
    return Path(name)
