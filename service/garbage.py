"""Garbage of the artifact store: uploads that can never be finished, and blobs that no artifact holds any more.

Both are rare: whoever drops an artifact collects its blobs at once. Garbage need not be old to be collected: the
writer of an upload has lost its lease when its run is over, and a blob is stored and referred to in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, FromClause, except_, func, select

from . import blobs
from .artifacts import remove
from .database import Database
from .tables import artifact_blobs, artifacts, runs
from .tables import blobs as stored


@dataclass(frozen=True)
class Garbage:
    """What is of no use to anybody."""

    uploads: tuple[int, ...]  # artifacts that were never finished, of runs that are over
    blobs: dict[str, int]  # size in bytes by digest; those that only such an upload holds are among them

    @property
    def size_bytes(self) -> int:
        """The room that it takes."""
        return sum(self.blobs.values())


@dataclass(frozen=True)
class Stock:
    """How much the store holds."""

    num_artifacts: int
    artifact_bytes: int  # of all artifacts as files
    num_blobs: int
    blob_bytes: int  # what their blobs, which they share, take


def find_garbage(connection: Connection) -> Garbage:
    """What is garbage now."""
    over = artifacts.c.run_id.in_(select(runs.c.id).where(runs.c.ended_at.is_not(None)))
    uploads = tuple(connection.scalars(select(artifacts.c.id).where(artifacts.c.state == "staging", over)))
    held = select(artifact_blobs.c.digest).where(artifact_blobs.c.artifact_id.not_in(uploads))
    # Both sides of EXCEPT come from an index: the rows with the bytes are touched only where there is garbage.
    loose = select(except_(select(stored.c.digest), held).subquery().c.digest)
    found = connection.execute(select(stored.c.digest, stored.c.size_bytes).where(stored.c.digest.in_(loose)))
    return Garbage(uploads, {row.digest: row.size_bytes for row in found})


def collect_garbage(database: Database) -> Garbage:
    """Delete the garbage, beside writers and readers; returns what was deleted."""
    with database.read() as connection:
        garbage = find_garbage(connection)
    if garbage.uploads:
        with database.write() as connection:
            remove(connection, artifacts.c.id.in_(garbage.uploads), artifacts.c.state == "staging")
    collected = blobs.collect(database, garbage.blobs)
    return Garbage(garbage.uploads, {digest: garbage.blobs[digest] for digest in collected})


def take_stock(connection: Connection) -> Stock:
    """Count artifacts that are whole, and all blobs."""

    def count(table: FromClause, size: Any) -> Sequence[int]:
        num, total = connection.execute(select(func.count(), func.sum(size)).select_from(table)).one()
        return num, int(total or 0)

    whole = select(artifacts.c.size_bytes).where(artifacts.c.state == "complete").subquery()
    return Stock(*count(whole, whole.c.size_bytes), *count(stored, stored.c.size_bytes))
