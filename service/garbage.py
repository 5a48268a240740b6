"""Garbage of the artifact store: uploads that their writers never finished, and blobs that no artifact holds any more.

Both are rare: whoever drops an artifact collects its blobs at once. What is young stays, by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, FromClause, except_, func, select

from . import blobs
from .artifacts import remove
from .clock import now
from .database import Database
from .tables import artifact_blobs, artifacts, runs
from .tables import blobs as stored

GRACE_S = 3600.0


@dataclass(frozen=True)
class Garbage:
    """What is of no use to anybody."""

    unfinished: tuple[int, ...]  # artifacts whose writer's run is over
    blobs: dict[str, int]  # size in bytes by digest; those that only an unfinished artifact holds are among them


def find_garbage(connection: Connection, grace_s: float) -> Garbage:
    """What is garbage, and was stored at least so long ago."""
    old = artifacts.c.created_at <= now() - grace_s
    over = artifacts.c.run_id.in_(select(runs.c.id).where(runs.c.ended_at.is_not(None)))
    staging = select(artifacts.c.id).where(artifacts.c.state == "staging", old, over)
    unfinished = tuple(connection.scalars(staging))
    held = select(artifact_blobs.c.digest).where(artifact_blobs.c.artifact_id.not_in(unfinished))
    # Both sides of EXCEPT come from an index: the rows with the bytes are touched only where there is garbage.
    loose = select(except_(select(stored.c.digest), held).subquery().c.digest)
    of_age = stored.c.stored_at <= now() - grace_s
    found = connection.execute(select(stored.c.digest, stored.c.size_bytes).where(stored.c.digest.in_(loose), of_age))
    return Garbage(unfinished, {row.digest: row.size_bytes for row in found})


def collect_garbage(database: Database, grace_s: float = GRACE_S) -> Garbage:
    """Delete the garbage, beside writers and readers; returns what it was."""
    with database.read() as connection:
        garbage = find_garbage(connection, grace_s)
    if garbage.unfinished:
        with database.write() as connection:
            remove(connection, artifacts.c.id.in_(garbage.unfinished), artifacts.c.state == "staging")
    blobs.collect(database, garbage.blobs)
    return garbage


def stock(connection: Connection) -> dict[str, int]:
    """How much the store holds: artifacts as the files that they are, and the blobs that they share."""

    def count(table: FromClause, size: Any) -> Sequence[int]:
        return connection.execute(select(func.count(), func.coalesce(func.sum(size), 0)).select_from(table)).one()

    num_artifacts, artifact_bytes = count(artifacts, artifacts.c.size_bytes)
    num_blobs, blob_bytes = count(stored, stored.c.size_bytes)
    return {
        "num_artifacts": num_artifacts,
        "artifact_bytes": int(artifact_bytes),
        "num_blobs": num_blobs,
        "blob_bytes": int(blob_bytes),
    }
