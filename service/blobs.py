"""Blobs: bytes that are kept once, under their digest, however many artifacts hold them.

A blob is at most `cutting.BLOB_BYTES` long, so one short transaction stores it whole. Rows of `artifact_blobs` refer to
it, with a foreign key: neither can a writer refer to a blob that is being collected, nor a collector delete one that
was just referred to. It knows nothing of runs, names and files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from sqlalchemy import Connection, Insert, Select, delete, select, update
from sqlalchemy.exc import DBAPIError

from dljobs.errors import DljobsError

from .clock import now
from .cutting import BLOB_BYTES
from .database import Database
from .statements import in_batches
from .tables import artifact_blobs, blobs

if TYPE_CHECKING:
    import sqlite3

    from psycopg.abc import Buffer
    from psycopg.adapt import Loader

_COLLECTED_AT_ONCE = 8  # blobs deleted in one transaction: SQLite visits each of their pages


def digest_of(data: bytes | memoryview) -> str:
    """BLAKE3, as 64 hexadecimal digits: measured 4 to 8 times faster than SHA-256, and as hard to forge."""
    return blake3(data).hexdigest()


def known(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Which of these blobs the database has now, whole as far as anybody knows."""
    found: set[str] = set()
    for some in in_batches(digests):
        found |= set(connection.scalars(_whole(some)))
    return found


def keep(
    connection: Connection, sizes: Mapping[str, int], read: Callable[[Sequence[str]], Mapping[str, memoryview]]
) -> None:
    """See that the database has these blobs, and go on having them until this transaction ends.

    Args:
        sizes: how many bytes each has, by digest.
        read: the bytes of those that the database lacks, some at a time: `BLOB_BYTES` at most.
    """
    kept: set[str] = set()
    for digests in in_batches(list(sizes)):
        # On Postgres the lock keeps collectors away, and no writer.
        kept |= set(connection.scalars(_whole(digests).with_for_update(read=True, key_share=True)))
    # In order: of two writers of the same blobs one waits for the other, never each for each.
    for digests in _together(sorted(sizes.keys() - kept), sizes):
        rows = [{"digest": digest, "size_bytes": len(data), "data": data} for digest, data in read(digests).items()]
        # One statement for all of them: on Postgres no row waits for the answer to the one before. Not for more bytes:
        # the driver keeps them all in memory, which would be new.
        connection.execute(_mending_insert(connection.dialect.name), rows)


def _together(digests: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    some: list[str] = []
    room = BLOB_BYTES
    for digest in digests:
        if sizes[digest] > room:
            yield some
            some, room = [], BLOB_BYTES
        some.append(digest)
        room -= sizes[digest]
    if some:
        yield some


def _whole(digests: Collection[str]) -> Select[tuple[str]]:
    return select(blobs.c.digest).where(blobs.c.digest.in_(digests), blobs.c.damaged_at.is_(None))


@cache
def _mending_insert(dialect: str) -> Insert:
    """Insert digest, size_bytes and data. Made once: to make it takes longer than to store a small blob with it."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # it is made and used alike
    new = insert(blobs).values(stored_at=now())
    # Another writer may have stored it since we looked, and a reader may have found it damaged: then this mends it.
    return new.on_conflict_do_update(
        index_elements=[blobs.c.digest],
        set_={"data": new.excluded.data, "size_bytes": new.excluded.size_bytes, "damaged_at": None},
        where=blobs.c.damaged_at.is_not(None),
    )


def load(connection: Connection, digests: Sequence[str]) -> dict[str, memoryview]:
    """The bytes of those that there are, by digest, not verified."""
    if connection.dialect.name == "sqlite":
        query = "SELECT digest, rowid FROM blobs WHERE digest IN (SELECT value FROM json_each(?))"
        driver: Any = connection.connection.driver_connection
        found = read_rows(connection, query, json.dumps(list(digests)))
        return {row["digest"]: _read_sqlite(driver, row["rowid"]) for row in found}
    found = read_rows(connection, "SELECT digest, data FROM blobs WHERE digest = ANY(?)", list(digests))
    return {row["digest"]: row["data"] for row in found}


def _read_sqlite(driver: sqlite3.Connection, rowid: int) -> memoryview:
    # Measured 3 to 7 times faster than SELECT, which collects the pages in memory of its own before it copies them.
    with driver.blobopen(blobs.name, blobs.c.data.name, rowid, readonly=True) as blob:
        return memoryview(blob.read())


def read_rows(connection: Connection, query: str, *values: object) -> list[dict[str, Any]]:
    """What the driver itself answers to a query with a `?` for each value, bytes as bytes or views of them.

    SQLAlchemy takes longer than SQLite does, and asks Postgres for results as text, where each byte takes two.
    """
    driver: Any = connection.connection.driver_connection
    with _errors_as_of_sqlalchemy(connection, query):
        if connection.dialect.name == "sqlite":
            cursor = driver.execute(query, values)
        else:
            cursor = driver.cursor(binary=True)
            cursor.adapters.register_loader("bytea", _view_loader())
            cursor.execute(query.replace("?", "%s"), values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def _errors_as_of_sqlalchemy(connection: Connection, query: str) -> Iterator[None]:
    """What goes wrong beside SQLAlchemy is explained to users like all the rest (`Database`)."""
    base = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(query, None, error, base, dialect=connection.dialect) from error


@cache
def _view_loader() -> type[Loader]:
    from psycopg.adapt import Loader
    from psycopg.pq import Format

    class View(Loader):
        """The bytes where libpq has put them, which it keeps as long as the view is there."""

        format = Format.BINARY

        def load(self, data: Buffer) -> memoryview:
            return memoryview(data)

    return View


def mark_damaged(database: Database, digest: str) -> None:
    """A blob did not match its digest: the next artifact that brings its bytes along shall store them anew."""
    # Best effort: who reads may not be allowed to write.
    with suppress(DljobsError, DBAPIError), database.write() as connection:
        connection.execute(update(blobs).where(blobs.c.digest == digest).values(damaged_at=now()))


def collect(database: Database, digests: Iterable[str]) -> list[str]:
    """Delete those of these blobs that no artifact holds; returns which. Safe beside writers."""
    deleted: list[str] = []
    candidates = sorted(digests)
    for start in range(0, len(candidates), _COLLECTED_AT_ONCE):
        some = candidates[start : start + _COLLECTED_AT_ONCE]
        # What a power cut undoes here, the next collection finds.
        with database.write(durable=False) as connection:
            # Locked first, looked up then: a reference made before the lock is seen by the second statement, and none
            # can be made after it. Whoever else holds a lock is a writer that wants the blob.
            mine = select(blobs.c.digest).where(blobs.c.digest.in_(some)).with_for_update(skip_locked=True)
            locked = list(connection.scalars(mine))
            held = select(artifact_blobs.c.digest).where(artifact_blobs.c.digest.in_(locked))
            loose = delete(blobs).where(blobs.c.digest.in_(locked), blobs.c.digest.not_in(held))
            deleted += connection.scalars(loose.returning(blobs.c.digest))
    return deleted
