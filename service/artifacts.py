"""The artifact store: immutable, named bytes of a run, whole or not at all.

Bytes lie in chunks, each with its digest; the artifact's row becomes `complete` only after its last chunk, and what is
not complete is invisible to every reader. Callers know files and ids only: behind this seam a faster store may come.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, select, update

from dljobs.errors import CorruptArtifact, DljobsError, NotFound, StorageFull

from .clock import now
from .database import Database
from .jobs import MAX_ID
from .json_text import to_json
from .runs import RunKey, fenced_update
from .tables import artifact_chunks, artifacts, runs

CHUNK_BYTES = 4 * 1024 * 1024
_STAGING_SUFFIX = ".staging"  # in the name, so that a complete artifact of the same name can stand beside it


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
        """Store a file as an artifact of the run; returns its id.

        Each chunk is a short transaction of its own, so that heartbeats get through on SQLite. A crash leaves a
        `staging` row, which the next attempt at the same name and the sweep remove. An artifact of the same name that
        was stored before stays until this one is complete.

        Raises:
            StaleToken: the run's lease is gone; nothing became visible.
            StorageFull: the database has no room.
        """
        artifact_id = self._begin(key, what)
        try:
            self._fill(key, what, artifact_id, path)
        except StorageFull:
            # The room that the chunks take is what everybody lacks now; if even this fails, the sweep does it later.
            with suppress(DljobsError), self._database.write() as connection:
                connection.execute(delete(artifacts).where(artifacts.c.id == artifact_id))
            raise
        return artifact_id

    def _fill(self, key: RunKey, what: Description, artifact_id: int, path: Path) -> None:
        whole, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            for number, chunk in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
                whole.update(chunk)
                size += len(chunk)
                digest = hashlib.sha256(chunk).hexdigest()
                values = {"artifact_id": artifact_id, "number": number, "digest": digest, "data": chunk}
                with self._database.write() as connection:
                    fenced_update(connection, key)
                    connection.execute(insert(artifact_chunks).values(**values))
        with self._database.write() as connection:
            fenced_update(connection, key)
            connection.execute(delete(artifacts).where(*_named(key, what, what.name)))
            complete = {"name": what.name, "state": "complete", "size_bytes": size, "digest": whole.hexdigest()}
            connection.execute(update(artifacts).where(artifacts.c.id == artifact_id).values(**complete))

    def _begin(self, key: RunKey, what: Description) -> int:
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
        with self._database.write() as connection:
            fenced_update(connection, key)
            connection.execute(delete(artifacts).where(*_named(key, what, name)))
            made = insert(artifacts).values(created_at=now(), **values).returning(artifacts.c.id)
            return int(connection.execute(made).scalar_one())

    def chunks(self, artifact_id: int) -> Iterator[bytes]:
        """The artifact's bytes, chunk by chunk; each chunk is verified before it is handed out.

        Raises:
            NotFound: there is no such complete artifact.
            CorruptArtifact: a chunk or the whole does not match its digest.
        """
        with self._database.read() as connection:
            row = get_artifact(connection, artifact_id)
        whole, size, number = hashlib.sha256(), 0, 0
        while size < row["size_bytes"]:
            chunk = self._chunk(row, number)
            yield chunk
            whole.update(chunk)
            size += len(chunk)
            number += 1
        if whole.hexdigest() != row["digest"]:
            raise CorruptArtifact(f"artifact {artifact_id} ({row['name']}) is corrupt: its digest does not match")

    def open(self, artifact_id: int) -> ArtifactReader:
        """For reading parts of an artifact.

        Raises:
            NotFound: there is no such complete artifact.
        """
        with self._database.read() as connection:
            row = get_artifact(connection, artifact_id)
            # The length of a value is known without loading it. All chunks but the last one are as long as the first.
            first = (artifact_chunks.c.artifact_id == artifact_id, artifact_chunks.c.number == 0)
            chunk_bytes = connection.execute(select(func.length(artifact_chunks.c.data)).where(*first)).scalar()
        return ArtifactReader(row["size_bytes"], chunk_bytes or CHUNK_BYTES, lambda number: self._chunk(row, number))

    def _chunk(self, row: RowMapping, number: int) -> bytes:
        """One chunk of a complete artifact, verified."""
        here = (artifact_chunks.c.artifact_id == row["id"], artifact_chunks.c.number == number)
        with self._database.read() as connection:
            chunk = connection.execute(select(artifact_chunks).where(*here)).mappings().one_or_none()
            if chunk is None:
                get_artifact(connection, row["id"])  # NotFound: it was dropped while we read
        if chunk is None or hashlib.sha256(chunk["data"]).hexdigest() != chunk["digest"]:
            what = "is missing" if chunk is None else "does not match its digest"
            raise CorruptArtifact(
                f"artifact {row['id']} ({row['name']}) is corrupt: chunk {number} {what}",
                "take another checkpoint: `dljobs artifacts JOB` lists them",
            )
        data: bytes = chunk["data"]
        return data

    def fetch(self, artifact_id: int, target: Path) -> None:
        """Write the artifact to `target`, which appears whole or not at all.

        Raises:
            NotFound, CorruptArtifact: as `chunks`.
        """
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                for chunk in self.chunks(artifact_id):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def drop(self, key: RunKey, artifact_ids: list[int]) -> None:
        """Remove artifacts of the run (retention)."""
        if not artifact_ids:
            return
        mine = (artifacts.c.run_id == key.run_id, artifacts.c.id.in_(artifact_ids))
        with self._database.write() as connection:
            fenced_update(connection, key)
            connection.execute(delete(artifacts).where(*mine))


class ArtifactReader:
    """Parts of one artifact: only the chunks that hold them are loaded, and each is verified."""

    def __init__(self, size: int, chunk_bytes: int, chunk: Callable[[int], bytes]) -> None:
        self.size = size  # in bytes
        self._chunk_bytes = chunk_bytes
        self._chunk = chunk
        # Small tensors share a chunk and are read one after another: the last one is kept.
        self._kept: tuple[int, bytes] | None = None

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to, not including, `stop`.

        Raises:
            NotFound: the artifact was dropped meanwhile.
            CorruptArtifact: a chunk does not match its digest, or is shorter than it should be.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} of {self.size}")
        parts = []
        for number in range(start // self._chunk_bytes, -(-stop // self._chunk_bytes) if stop > start else 0):
            first = number * self._chunk_bytes
            parts.append(self._load(number)[max(start - first, 0) : stop - first])
        found = b"".join(parts)
        if len(found) != stop - start:
            raise CorruptArtifact(f"the artifact holds {len(found)} bytes where {stop - start} should be")
        return found

    def _load(self, number: int) -> bytes:
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._chunk(number))
        return self._kept[1]


def _named(key: RunKey, what: Description, name: str) -> tuple[ColumnElement[bool], ...]:
    return (artifacts.c.run_id == key.run_id, artifacts.c.kind == what.kind, artifacts.c.name == name)


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
        raise NotFound(f"there is no artifact {artifact_id}", "`dljobs artifacts JOB` lists a job's artifacts")
    return row


def list_artifacts(
    connection: Connection, job_id: int, *, kind: str | None = None, from_run: int = 1
) -> list[RowMapping]:
    """Complete artifacts of a job with their run's number, oldest first."""
    query = (
        select(artifacts, runs.c.number.label("run_number"))
        .join(runs, runs.c.id == artifacts.c.run_id)
        .where(runs.c.job_id == job_id, artifacts.c.state == "complete", runs.c.number >= from_run)
    )
    if kind is not None:
        query = query.where(artifacts.c.kind == kind)
    return list(connection.execute(query.order_by(artifacts.c.step, artifacts.c.id)).mappings())


def drop_stale_staging(connection: Connection, older_than_s: float) -> int:
    """Remove what writers that died left behind; returns how many."""
    stale = (artifacts.c.state == "staging", artifacts.c.created_at < now() - older_than_s)
    dead = select(runs.c.id).where(runs.c.ended_at.is_not(None))
    return connection.execute(delete(artifacts).where(*stale, artifacts.c.run_id.in_(dead))).rowcount
