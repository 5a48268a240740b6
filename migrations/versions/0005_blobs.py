"""Blobs: artifacts become lists of blobs, which they share.

The chunks of artifacts that were stored before become blobs, one by one. An artifact that was damaged stays so: it
gets a digest that nothing matches.
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from alembic import op
from blake3 import blake3

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CHUNK_BYTES = 4 * 1024 * 1024
CHUNKS = sa.table("artifact_chunks", *map(sa.column, ("artifact_id", "number", "digest", "data")))
BLOBS = sa.table("blobs", *map(sa.column, ("digest", "size_bytes", "stored_at", "data")))
PARTS = sa.table("artifact_blobs", *map(sa.column, ("artifact_id", "number", "digest", "size_bytes")))
ARTIFACTS = sa.table("artifacts", *map(sa.column, ("id", "state", "digest", "created_at")))
DAMAGED = "damaged before it was upgraded"


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("stored_at", sa.Double(), nullable=False),
        sa.Column("damaged_at", sa.Double(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "artifact_blobs",
        sa.Column("artifact_id", big, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name=op.f("fk_artifact_blobs_artifact_id_artifacts"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_artifact_blobs_digest_blobs")),
        sa.PrimaryKeyConstraint("artifact_id", "number", name=op.f("pk_artifact_blobs")),
    )
    op.create_index(op.f("ix_artifact_blobs_digest"), "artifact_blobs", ["digest"])
    if op.get_bind().dialect.name == "postgresql":
        # Weights hardly shrink, and compressing them takes longer than writing them.
        op.execute("ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL")
    connection = op.get_bind()
    for artifact in connection.execute(sa.select(ARTIFACTS).order_by(ARTIFACTS.c.id)).all():
        digest = _to_blobs(connection, artifact) if artifact.state == "complete" else ""
        connection.execute(sa.update(ARTIFACTS).where(ARTIFACTS.c.id == artifact.id).values(digest=digest))
    op.drop_table("artifact_chunks")


def _to_blobs(connection: sa.Connection, artifact: sa.Row[Any]) -> str:
    """Turn the chunks of an artifact into blobs; returns its new digest."""
    whole, digests = hashlib.sha256(), []
    numbers = sa.select(CHUNKS.c.number).where(CHUNKS.c.artifact_id == artifact.id).order_by(CHUNKS.c.number)
    for number in connection.scalars(numbers).all():
        here = (CHUNKS.c.artifact_id == artifact.id, CHUNKS.c.number == number)
        data = bytes(connection.execute(sa.select(CHUNKS.c.data).where(*here)).scalar_one())
        whole.update(data)
        digests.append(blake3(data).hexdigest())
        if connection.scalar(sa.select(BLOBS.c.digest).where(BLOBS.c.digest == digests[-1])) is None:
            blob = {"digest": digests[-1], "size_bytes": len(data), "stored_at": artifact.created_at, "data": data}
            connection.execute(sa.insert(BLOBS).values(**blob))
        part = {"artifact_id": artifact.id, "number": number, "digest": digests[-1], "size_bytes": len(data)}
        connection.execute(sa.insert(PARTS).values(**part))
        connection.execute(sa.delete(CHUNKS).where(*here))
    return blake3("".join(digests).encode()).hexdigest() if whole.hexdigest() == artifact.digest else DAMAGED


def downgrade() -> None:
    op.create_table(
        "artifact_chunks",
        sa.Column("artifact_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name=op.f("fk_artifact_chunks_artifact_id_artifacts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("artifact_id", "number", name=op.f("pk_artifact_chunks")),
    )
    connection = op.get_bind()
    complete = sa.select(ARTIFACTS).where(ARTIFACTS.c.state == "complete").order_by(ARTIFACTS.c.id)
    for artifact in connection.execute(complete).all():
        digest = _to_chunks(connection, artifact)
        connection.execute(sa.update(ARTIFACTS).where(ARTIFACTS.c.id == artifact.id).values(digest=digest))
    op.drop_table("artifact_blobs")
    op.drop_table("blobs")


def _to_chunks(connection: sa.Connection, artifact: sa.Row[Any]) -> str:
    """Copy the blobs of an artifact into chunks, of which all but the last are equally long; returns its old digest."""
    whole, digests, number, rest = hashlib.sha256(), "", 0, b""
    parts = sa.select(PARTS.c.digest).where(PARTS.c.artifact_id == artifact.id).order_by(PARTS.c.number)
    for digest in (*connection.scalars(parts).all(), None):
        if digest is not None:
            data = bytes(connection.execute(sa.select(BLOBS.c.data).where(BLOBS.c.digest == digest)).scalar_one())
            whole.update(data)
            rest += data
            digests += blake3(data).hexdigest()
        while len(rest) >= CHUNK_BYTES or (rest and digest is None):
            data, rest = rest[:CHUNK_BYTES], rest[CHUNK_BYTES:]
            chunk = {"artifact_id": artifact.id, "number": number, "data": data}
            connection.execute(sa.insert(CHUNKS).values(digest=hashlib.sha256(data).hexdigest(), **chunk))
            number += 1
    return whole.hexdigest() if blake3(digests.encode()).hexdigest() == artifact.digest else DAMAGED
