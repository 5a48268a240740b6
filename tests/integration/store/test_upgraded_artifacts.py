"""Artifacts that were stored in chunks of their own, before there were blobs: none is lost on the way there or back."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from dljobs.errors import CorruptArtifact, NotFound
from dljobs.service import schema
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.database import Database
from dljobs.service.settings import Settings
from dljobs.service.tables import blobs as blobs_table

from .rows import start

BEFORE_BLOBS = "0004"
CHUNK_BYTES = 4 * 1024 * 1024
CONTENTS = {
    "weights": random.Random(0).randbytes(2 * CHUNK_BYTES + 5),
    "the same": random.Random(0).randbytes(2 * CHUNK_BYTES + 5),
    "plot": b"a small one",
    "empty": b"",
}


def store_in_chunks(database: Database, run_id: int, name: str, content: bytes, state: str = "complete") -> int:
    """An artifact as it was stored before there were blobs."""
    values = {"run_id": run_id, "name": name, "state": state, "at": time.time(), "size": len(content)}
    values["digest"] = hashlib.sha256(content).hexdigest()
    with database.write() as connection:
        artifact_id: int = connection.execute(
            text(
                "INSERT INTO artifacts (run_id, kind, name, state, step, epoch, metrics_json, best, size_bytes, digest,"
                " created_at) VALUES (:run_id, 'state_dict', :name, :state, 0, 0, '{}', 0, :size, :digest, :at)"
                " RETURNING id"
            ),
            values,
        ).scalar_one()
        for number, first in enumerate(range(0, len(content), CHUNK_BYTES)):
            chunk = content[first : first + CHUNK_BYTES]
            connection.execute(
                text("INSERT INTO artifact_chunks VALUES (:artifact_id, :number, :digest, :data)"),
                {
                    "artifact_id": artifact_id,
                    "number": number,
                    "digest": hashlib.sha256(chunk).hexdigest(),
                    "data": chunk,
                },
            )
    return artifact_id


def chunks_of(database: Database, artifact_id: int) -> list[bytes]:
    """The chunks of an artifact, each as its digest says."""
    with database.read() as connection:
        query = text("SELECT digest, data FROM artifact_chunks WHERE artifact_id = :id ORDER BY number")
        found = [(row.digest, bytes(row.data)) for row in connection.execute(query, {"id": artifact_id})]
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in found)
    return [data for _digest, data in found]


def test_what_was_stored_in_chunks_is_read_from_blobs(database: Database, database_settings: Settings) -> None:
    _job, key = start(database)
    schema.downgrade(database_settings, BEFORE_BLOBS)
    ids = {name: store_in_chunks(database, key.run_id, name, content) for name, content in CONTENTS.items()}
    damaged = store_in_chunks(database, key.run_id, "damaged", b"as it was")
    unfinished = store_in_chunks(database, key.run_id, "unfinished.staging", b"half", state="staging")
    with database.write() as connection:
        words = "UPDATE artifact_chunks SET data = :data WHERE artifact_id = :id"
        connection.execute(text(words), {"data": b"otherwise", "id": damaged})

    schema.upgrade(database_settings)
    store = ArtifactStore(database)
    for name, content in CONTENTS.items():
        assert b"".join(store.chunks(ids[name])) == content
    with pytest.raises(CorruptArtifact):
        store.open(damaged)
    with pytest.raises(NotFound):
        store.open(unfinished)
    with database.read() as connection:
        # Three of the weights, which two artifacts have, one of the plot, and the damaged one's.
        assert len(connection.execute(blobs_table.select()).all()) == 5


def test_blobs_go_back_into_chunks(database: Database, database_settings: Settings, tmp_path: Path) -> None:
    _job, key = start(database)
    ids = {}
    for name, content in CONTENTS.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        ids[name] = ArtifactStore(database).put(key, Description("state_dict", name), path)
    schema.downgrade(database_settings, BEFORE_BLOBS)
    for name, content in CONTENTS.items():
        chunks = chunks_of(database, ids[name])
        assert b"".join(chunks) == content
        assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_BYTES] * (len(chunks) - 1)
        with database.read() as connection:
            query = text("SELECT digest FROM artifacts WHERE id = :id")
            assert connection.execute(query, {"id": ids[name]}).scalar() == hashlib.sha256(content).hexdigest()
    schema.upgrade(database_settings)
    for name, content in CONTENTS.items():
        assert b"".join(ArtifactStore(database).chunks(ids[name])) == content
