"""The artifact store: immutable, named bytes of a run, whole or not at all.

An artifact is a list of blobs (`blobs.py`), which it shares with every other artifact that has the same bytes there:
the same tensor, for weights (`cutting.py`). Its row becomes `complete` with its last blob, and what is not complete is
invisible to every reader. Callers know files, ranges of bytes and ids only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, select, update

from dljobs.errors import DljobsError, NotFound, StorageFull

from . import blobs
from .artifact_reader import ArtifactReader, Part, digest_of_parts
from .clock import now
from .cut_file import CutFile
from .cutting import BLOB_BYTES
from .database import Database
from .json_text import to_json
from .names import MAX_ID
from .runs import RunKey, fenced_update
from .spec import JobSpec
from .statements import IDS_AT_ONCE
from .states import PLACED_JOBS, WAITING_JOBS
from .tables import artifact_blobs, artifacts, jobs, runs

_STAGING_SUFFIX = ".staging"  # in the name, so that a complete artifact of the same name can stand beside it
_SMALL_BYTES = 1024 * 1024  # what is not larger is loaded at once: a connection more takes longer
# New bytes in a transaction. On SQLite nobody else writes meanwhile, heartbeats neither; on Postgres each transaction
# costs eight round trips, and keeps nobody waiting but writers for the same run.
_TRANSACTION_BYTES = {"sqlite": BLOB_BYTES, "postgresql": 4 * BLOB_BYTES}
# A complete artifact with its blobs in order: a row for each, or one if it has none. What is small comes with its
# bytes, so that it takes one round trip.
_OPENING = """
SELECT artifacts.id, name, artifacts.digest, artifacts.size_bytes,
       part.digest AS part, part.size_bytes AS part_bytes, data
FROM artifacts
LEFT JOIN artifact_blobs part ON artifact_id = artifacts.id
LEFT JOIN blobs ON blobs.digest = part.digest AND artifacts.size_bytes <= ?
WHERE artifacts.id = ? AND state = 'complete'
ORDER BY number
"""


@dataclass(frozen=True)
class Description:
    """What an artifact is; `name` is unique among the artifacts of its kind in its run."""

    kind: str  # state_dict, checkpoint, evaluation, plot
    name: str
    step: int = 0
    epoch: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    best: bool = False


class ArtifactStore:
    """Writes and reads artifacts of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, key: RunKey, what: Description, path: Path) -> int:
        """Store a file as an artifact of the run; returns its id. Bytes that the database already has are not written.

        Short transactions write a few blobs' worth of bytes, so that heartbeats get through on SQLite. A crash
        leaves a `staging` row, which the next attempt at the same name and the sweep remove. An artifact of the same
        name that was stored before stays until this one is complete.

        Raises:
            StaleToken: the run's lease is gone; nothing became visible.
            StorageFull: the database has no room.
        """
        artifact_id = None
        obsolete: set[str] = set()
        try:
            with path.open("rb") as file:
                content = CutFile(file)
                for numbers in self._transactions(content):
                    is_last = numbers.stop == len(content.parts)
                    # Only the last one waits for the disk, and with it for all before it.
                    with self._database.write(durable=is_last) as connection:
                        fenced_update(connection, key)
                        if artifact_id is None:
                            artifact_id, left = _begin(connection, key, what)
                            obsolete |= left
                        _add(connection, artifact_id, content, numbers)
                        if is_last:
                            obsolete |= _complete(connection, key, what, artifact_id, content)
        except StorageFull:
            # The room that the blobs take is what everybody lacks now; if even this fails, the sweep does it later.
            with suppress(DljobsError):
                self._remove(artifacts.c.id == artifact_id)
            raise
        assert artifact_id is not None  # there is always a last transaction
        blobs.collect(self._database, obsolete)
        return artifact_id

    def _transactions(self, content: CutFile) -> Iterator[range]:
        """The numbers of the parts in ranges that have few enough bytes which the database does not have."""
        most = _TRANSACTION_BYTES[self._database.engine.dialect.name]
        stored: set[str] = set()
        if content.size > most:
            with self._database.ask() as connection:
                stored = blobs.known(connection, [part.digest for part in content.parts])
        first, room = 0, most
        for number, part in enumerate(content.parts):
            num_new = 0 if part.digest in stored else part.size
            if num_new > room or number - first == IDS_AT_ONCE:
                yield range(first, number)
                first, room = number, most
            room -= num_new
            stored.add(part.digest)
        yield range(first, len(content.parts))

    def open(self, artifact_id: int) -> ArtifactReader:
        """For reading an artifact, or parts of it.

        Raises:
            NotFound: there is no such complete artifact.
            CorruptArtifact: the list of its blobs is damaged.
        """
        with self._database.ask() as connection:
            is_possible = 0 < artifact_id <= MAX_ID
            rows = blobs.read_rows(connection, _OPENING, _SMALL_BYTES, artifact_id) if is_possible else []
        if not rows:
            raise _not_found(artifact_id)
        parts = [Part(row["part"], row["part_bytes"]) for row in rows if row["part"] is not None]
        # A blob that was dropped just now is missed by the reader, as any other.
        loaded = {row["part"]: memoryview(row["data"]) for row in rows if row["data"] is not None}
        return ArtifactReader(self._database, rows[0], parts, loaded)

    def chunks(self, artifact_id: int) -> Iterator[memoryview]:
        """The artifact's bytes in their order; each chunk is verified before it is handed out.

        Raises:
            NotFound: there is no such complete artifact, or no longer.
            CorruptArtifact: some of it does not match its digest.
        """
        return self.open(artifact_id).chunks()

    def fetch(self, artifact_id: int, target: Path, *, durable: bool = True) -> None:
        """Write the artifact to `target`, which appears whole or not at all.

        Args:
            durable: False spares the wait for the disk, for a copy that nobody wants after a power cut.

        Raises:
            NotFound, CorruptArtifact: as `chunks`.
        """
        chunks = self.chunks(artifact_id)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def drop(self, key: RunKey, artifact_ids: list[int]) -> None:
        """Remove artifacts of the run's job (retention), and the blobs that no other artifact has."""
        if artifact_ids:
            job_id = select(runs.c.job_id).where(runs.c.id == key.run_id).scalar_subquery()
            of_job = select(runs.c.id).where(runs.c.job_id == job_id)
            self._remove(artifacts.c.run_id.in_(of_job), artifacts.c.id.in_(artifact_ids), key=key)

    def _remove(self, *which: ColumnElement[bool], key: RunKey | None = None) -> None:
        with self._database.write() as connection:
            if key is not None:
                fenced_update(connection, key)
            obsolete = remove(connection, *which)
        blobs.collect(self._database, obsolete)


def _begin(connection: Connection, key: RunKey, what: Description) -> tuple[int, set[str]]:
    """The artifact's id, and the blobs that an earlier attempt at it has left."""
    name = f"{what.name}{_STAGING_SUFFIX}"
    values = {
        "run_id": key.run_id,
        "kind": what.kind,
        "name": name,
        "state": "staging",
        "step": what.step,
        "epoch": what.epoch,
        "metrics_json": to_json(what.metrics),
        "best": int(what.best),
    }
    left = remove(connection, *_named(key, what, name))
    made = insert(artifacts).values(created_at=now(), **values).returning(artifacts.c.id)
    return int(connection.execute(made).scalar_one()), left


def _add(connection: Connection, artifact_id: int, content: CutFile, numbers: range) -> None:
    parts = content.parts[numbers.start : numbers.stop]
    if parts:
        blobs.keep(connection, {part.digest: part.size for part in parts}, content.read)
        rows = [
            {"artifact_id": artifact_id, "number": number, "digest": part.digest, "size_bytes": part.size}
            for number, part in zip(numbers, parts, strict=True)
        ]
        connection.execute(insert(artifact_blobs), rows)


def _complete(connection: Connection, key: RunKey, what: Description, artifact_id: int, content: CutFile) -> set[str]:
    """Make the artifact visible in the place of the one that had its name, whose blobs are returned."""
    replaced = remove(connection, *_named(key, what, what.name))
    digest = digest_of_parts(content.parts)
    complete = {"name": what.name, "state": "complete", "size_bytes": content.size, "digest": digest}
    connection.execute(update(artifacts).where(artifacts.c.id == artifact_id).values(**complete))
    return replaced


def _named(key: RunKey, what: Description, name: str) -> tuple[ColumnElement[bool], ...]:
    return (artifacts.c.run_id == key.run_id, artifacts.c.kind == what.kind, artifacts.c.name == name)


def remove(connection: Connection, *which: ColumnElement[bool]) -> set[str]:
    """Delete these artifacts; returns their blobs, for `blobs.collect` once the transaction is committed."""
    ids = list(connection.scalars(select(artifacts.c.id).where(*which)))
    if not ids:
        return set()
    digests = set(connection.scalars(select(artifact_blobs.c.digest).where(artifact_blobs.c.artifact_id.in_(ids))))
    connection.execute(delete(artifacts).where(artifacts.c.id.in_(ids)))
    return digests


def _not_found(artifact_id: int) -> NotFound:
    return NotFound(f"there is no artifact {artifact_id}", "`dljobs artifacts JOB` lists a job's artifacts")


def get_artifact(connection: Connection, artifact_id: int) -> RowMapping:
    """The row of a complete artifact.

    Raises:
        NotFound: there is none with this id.
    """
    row = None
    if 0 < artifact_id <= MAX_ID:
        query = select(artifacts).where(artifacts.c.id == artifact_id, artifacts.c.state == "complete")
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise _not_found(artifact_id)
    return row


def list_artifacts(
    connection: Connection, job_id: int, *, kind: str | None = None, from_run: int = 1
) -> list[RowMapping]:
    """Complete artifacts of a job with their run's number, oldest first."""
    query = (
        select(artifacts, runs.c.job_id, runs.c.number.label("run_number"))
        .join(runs, runs.c.id == artifacts.c.run_id)
        .where(runs.c.job_id == job_id, artifacts.c.state == "complete", runs.c.number >= from_run)
    )
    if kind is not None:
        query = query.where(artifacts.c.kind == kind)
    return list(connection.execute(query.order_by(artifacts.c.step, artifacts.c.id)).mappings())


def list_wanted(connection: Connection) -> set[int]:
    """What jobs in the queue, or placed, begin with, and what a replay among them is compared with."""
    active = jobs.c.state.in_([*WAITING_JOBS, *PLACED_JOBS])
    query = select(jobs.c.resumed_from_artifact_id, jobs.c.spec_json)
    rows = connection.execute(query.where(active, jobs.c.resumed_from_artifact_id.is_not(None))).all()
    compared = {JobSpec.from_json(row.spec_json).artifact_id for row in rows}
    return {row.resumed_from_artifact_id for row in rows} | {each for each in compared if each is not None}
