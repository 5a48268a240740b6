"""Tables of what jobs bring along and what their runs leave behind."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import BigInteger

from .columns import AnyText, Id, metadata

# What jobs bring along: archives of users' own files, by digest (source_archive.py); `jobs.spec_json` names them.
sources = Table(
    "sources",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("archive", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("split", String(16), nullable=False),
    Column("name", String(100), nullable=False),
    Column("value", Double),  # null: not a number
    Column("at", Double, nullable=False),
    Index(None, "run_id", "name", "split", "step"),
    sqlite_autoincrement=True,
)

# What a job's result has of each metric, so that the best jobs are found without reading any result.
scores = Table(
    "scores",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("metric", String(100), primary_key=True),
    Column("value", Double, nullable=False),
    Index(None, "metric", "value", "job_id"),
)

logs = Table(
    "logs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("rank", Integer),  # null: the supervisor's own words
    Column("line", AnyText, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "run_id", "id"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("job_id", ForeignKey("jobs.id")),
    Column("run_id", ForeignKey("runs.id")),
    Column("worker_id", ForeignKey("workers.id")),
    Column("actor", String(200), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16)),
    Column("reason", AnyText, nullable=False),
    Index(None, "job_id", "id"),
    sqlite_autoincrement=True,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("metrics_json", Text, nullable=False),
    Column("best", Integer, nullable=False, server_default=text("0")),  # 1: the best of its run when it was written
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("digest", String(64), nullable=False, server_default=text("''")),
    Column("created_at", Double, nullable=False),
    CheckConstraint("state IN ('staging', 'complete')", name="state"),
    CheckConstraint("kind IN ('state_dict', 'checkpoint', 'evaluation', 'plot')", name="kind"),
    UniqueConstraint("run_id", "kind", "name"),
    sqlite_autoincrement=True,
)

# Bytes of artifacts, each kept once: at most 4 MiB under their BLAKE3 digest (blobs.py).
blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("stored_at", Double, nullable=False),
    Column("damaged_at", Double),  # when a reader found that the bytes do not match
    Column("data", LargeBinary, nullable=False),
)

# The blobs of an artifact: one after the other by `number`, they are its file.
artifact_blobs = Table(
    "artifact_blobs",
    metadata,
    Column("artifact_id", ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Index(None, "digest"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),  # whose weights were measured
    # Null: the weights were dropped since, to make room.
    Column("artifact_id", ForeignKey("artifacts.id", ondelete="SET NULL")),
    Column("run_number", Integer, nullable=False),
    Column("name", String(200), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("data", String(200), nullable=False),
    Column("data_options_json", Text, nullable=False),
    Column("result_json", Text, nullable=False),
    Column("user", String(200), nullable=False),
    Column("by_job_id", ForeignKey("jobs.id")),  # the job of kind "evaluate"; null: measured where the client is
    Column("created_at", Double, nullable=False),
    Index(None, "job_id"),
    Index(None, "artifact_id"),
    UniqueConstraint("by_job_id"),
    sqlite_autoincrement=True,
)

# Replays: whether training from a checkpoint gives the same numbers again.
verifications = Table(
    "verifications",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),  # whose training was replayed
    Column("by_job_id", ForeignKey("jobs.id"), nullable=False, unique=True),  # the job of kind "verify"
    Column("run_number", Integer, nullable=False),
    Column("from_step", BigInteger, nullable=False),
    Column("to_step", BigInteger, nullable=False),
    Column("is_exact", Integer, nullable=False),
    Column("result_json", Text, nullable=False),
    Column("user", String(200), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "job_id"),
    sqlite_autoincrement=True,
)
