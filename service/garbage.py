"""Garbage of the artifact store: uploads that can never be finished, blobs that no artifact holds any more, and, where
somebody asks for it, artifacts of jobs that are over which their retention does not keep.

All are rare: whoever drops an artifact collects its blobs at once, and a run drops what its retention does not keep.
Garbage need not be old to be collected: the writer of an upload has lost its lease when its run is over, and a blob is
stored and referred to in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, FromClause, except_, func, select

from . import blobs
from .artifacts import list_wanted, remove
from .database import Database
from .retention import obsolete
from .spec import JobSpec
from .states import ENDED_JOBS
from .tables import artifact_blobs, artifacts, jobs, runs
from .tables import blobs as stored


@dataclass(frozen=True)
class Garbage:
    """What is of no use to anybody."""

    uploads: tuple[int, ...]  # artifacts that were never finished, of runs that are over
    unkept: tuple[int, ...]  # whole ones that retention does not keep
    blobs: dict[str, int]  # size in bytes by digest; those that only such artifacts hold are among them

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


def list_unkept(connection: Connection) -> list[int]:
    """The whole artifacts of jobs that are over which their retention does not keep."""
    wanted = list_wanted(connection)
    of_jobs = (
        select(artifacts, runs.c.job_id, runs.c.number.label("run_number"), jobs.c.spec_json)
        .join(runs, runs.c.id == artifacts.c.run_id)
        .join(jobs, jobs.c.id == runs.c.job_id)
        .where(artifacts.c.state == "complete", jobs.c.state.in_(ENDED_JOBS))
        .order_by(runs.c.job_id, artifacts.c.kind)
    )
    rows = connection.execute(of_jobs).mappings()
    found: list[int] = []
    for (_job, kind), group in groupby(rows, key=lambda row: (row["job_id"], row["kind"])):
        same = list(group)
        found += obsolete(same, kind, JobSpec.from_json(same[0]["spec_json"]), wanted)
    return found


def find_garbage(connection: Connection, unkept: Sequence[int] = ()) -> Garbage:
    """What is garbage now, with these artifacts, which are to go."""
    over = artifacts.c.run_id.in_(select(runs.c.id).where(runs.c.ended_at.is_not(None)))
    uploads = tuple(connection.scalars(select(artifacts.c.id).where(artifacts.c.state == "staging", over)))
    held = select(artifact_blobs.c.digest).where(artifact_blobs.c.artifact_id.not_in([*uploads, *unkept]))
    # Both sides of EXCEPT come from an index: the rows with the bytes are touched only where there is garbage.
    loose = select(except_(select(stored.c.digest), held).subquery().c.digest)
    found = connection.execute(select(stored.c.digest, stored.c.size_bytes).where(stored.c.digest.in_(loose)))
    return Garbage(uploads, tuple(unkept), {row.digest: row.size_bytes for row in found})


def collect_garbage(database: Database, unkept: Sequence[int] = ()) -> Garbage:
    """Delete the garbage, beside writers and readers; returns what was deleted."""
    with database.read() as connection:
        garbage = find_garbage(connection, unkept)
    if garbage.uploads or unkept:
        with database.write() as connection:
            remove(connection, artifacts.c.id.in_(garbage.uploads), artifacts.c.state == "staging")
            # A job may have been made meanwhile that begins with one of them.
            still = set(unkept) - list_wanted(connection)
            remove(connection, artifacts.c.id.in_(still), artifacts.c.state == "complete")
    collected = blobs.collect(database, garbage.blobs)
    return Garbage(garbage.uploads, garbage.unkept, {digest: garbage.blobs[digest] for digest in collected})


def take_stock(connection: Connection) -> Stock:
    """Count artifacts that are whole, and all blobs."""

    def count(table: FromClause, size: Any) -> Sequence[int]:
        num, total = connection.execute(select(func.count(), func.sum(size)).select_from(table)).one()
        return num, int(total or 0)

    whole = select(artifacts.c.size_bytes).where(artifacts.c.state == "complete").subquery()
    return Stock(*count(whole, whole.c.size_bytes), *count(stored, stored.c.size_bytes))
