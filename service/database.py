"""Connections to SQLite and Postgres: how they are opened, and what a reading and a writing transaction are.

It knows drivers and pragmas; it knows no table. Queries stand in the file of the noun they ask about.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, Update, bindparam, create_engine, event, make_url, text, update
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    NoSuchModuleError,
    OperationalError,
)

from dljobs.errors import DatabaseFull, NotAllowed, Unreachable, UsageError

from .settings import Settings, mask

T = TypeVar("T")

BUSY_TIMEOUT_S = 30
IDS_AT_ONCE = 1000
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs"}


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
            if not _is_about_the_database(error):
                raise
            raise _explain(error, self.shown_url) from error


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
        file_system = _file_system_of(path)
        if file_system in NETWORK_FILE_SYSTEMS:
            raise Unreachable(
                f"{path} is on a network file system ({file_system}), where SQLite's locks cannot be trusted",
                hint="set DLJOBS_HOME to a local disk, or DLJOBS_DATABASE_URL to a Postgres database",
            )
        try:
            exists = _make_file(path) if create else path.exists()
        except OSError as error:
            words = f"there can be no database at {path}: {error.strerror}"
            raise Unreachable(words, "set DLJOBS_HOME to a folder of your own") from None
        if not exists:
            hint = "start the service with `dljobs up`" if settings.embedded_database else "run `dljobs db upgrade`"
            raise Unreachable(f"there is no database at {path} yet", hint)
    return Database(settings.sqlalchemy_url)


def _create_engine(url: str) -> Engine:
    try:
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            # Keepalives: without them a half-open connection blocks a worker for two hours.
            # They are not sent while something is on its way: that is given up after tcp_user_timeout (ms).
            keepalive = {
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
            }
            engine = create_engine(url, connect_args={"connect_timeout": 5, **keepalive})
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
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except connection.Error as error:
            raise InvalidatePoolError from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see `write`
    cursor = connection.cursor()
    for pragma in (
        # It only takes effect while the file is empty. Artifact chunks are written faster into larger pages, small
        # rows slower: 16 KiB keeps most of both.
        "page_size=16384",
        "journal_mode=WAL",
        "synchronous=FULL",  # an id that `submit` has printed survives a power cut
        "foreign_keys=ON",
        # SQLite before 3.51.3 may corrupt a WAL that two connections checkpoint at once: one worker does it (sweep.py).
        "wal_autocheckpoint=0",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("dljobs_write"):
        # NORMAL syncs the log only before it is moved into the file; FULL syncs all of it at each commit.
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('dljobs_durable', True) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("dljobs_write") else "BEGIN")


def in_batches(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many of them at a time as one statement may well name."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]


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


_NOT_ALLOWED = ("InsufficientPrivilege", "ReadOnlySqlTransaction")
# What libpq says of a connection that will never be made with these settings, what it means, and the cure.
_REFUSALS = (
    ("certificate verify failed", "shows a certificate that no authority known here has signed", "sslrootcert"),
    ("root certificate file", "cannot be verified: the authority's file is not there", "sslrootcert"),
    ("does not match host name", "shows a certificate for another name than its URL has", "name"),
    ("server does not support SSL", "does not speak TLS", "tls"),
    ("no encryption", "takes no connection without TLS", "sslrootcert"),
    ("no pg_hba.conf entry", "lets this user in from nowhere near here", "user"),
    ("password authentication failed", "refuses this user or password", "user"),
)
_CURES = {
    "sslrootcert": "name the authority's file: DLJOBS_DATABASE_URL='postgresql://…?sslmode=verify-full&sslrootcert=…'",
    "name": "write the name that the certificate was made for in DLJOBS_DATABASE_URL",
    "tls": "turn ssl on in that server, or leave sslmode out of DLJOBS_DATABASE_URL",
    "user": "correct DLJOBS_DATABASE_URL: `dljobs config` shows where it comes from",
}


def _is_about_the_database(error: DBAPIError) -> bool:
    """Whether the server, the file or the schema is not right, rather than one statement."""
    # SQLite says "file is not a database" and "malformed" with the bare base class.
    unusable = isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
    return unusable or type(error.orig).__name__ in ("UndefinedTable", *_NOT_ALLOWED)


def _explain(error: DBAPIError, shown_url: str) -> Exception:
    words = str(error.orig)
    if "disk is full" in words or "No space left" in words:
        return DatabaseFull(f"the database {shown_url} has no room left", "free some disk space and try again")
    first_line = words.strip().splitlines()[0] if words.strip() else type(error.orig).__name__
    if "no such table" in words or "UndefinedTable" in type(error.orig).__name__:
        return Unreachable(f"the database {shown_url} has no dljobs tables", "run `dljobs db upgrade`")
    if type(error.orig).__name__ in _NOT_ALLOWED or "readonly database" in words:
        user = make_url(shown_url).username
        return NotAllowed(
            f"the database {shown_url} does not let {user or 'you'} do this: {first_line}",
            "set DLJOBS_DATABASE_URL to a user who may; after an upgrade, run deploy/postgres/roles.sql again",
        )
    for pattern, meaning, cure in _REFUSALS:
        if pattern in words:
            return Unreachable(f"the database {shown_url} {meaning}", _CURES[cure])
    return Unreachable(f"the database {shown_url} does not answer: {first_line}", "see `dljobs doctor`")


def _sqlite_path(url: str) -> Path | None:
    if not url.startswith("sqlite"):
        return None
    name = make_url(url).database
    if not name or name == ":memory:":
        raise UsageError("an in-memory SQLite database cannot be shared", "give a file: sqlite:////path/to/dljobs.db")
    return Path(name)


def _make_file(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # before SQLite would create it world-readable
    return True


def _file_system_of(path: Path) -> str:
    """The file system's type by the longest mount point that holds `path`; "" where /proc/mounts does not exist."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    target, best, kind = str(path.absolute()), "", ""
    for line in mounts.read_text().splitlines():
        _device, mount_point, file_system, *_ = line.split()
        inside = target == mount_point or target.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, file_system
    return kind
