"""Tables of what runs: runs, what each worker does for them, and the leases on their devices."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import BigInteger

from dljobs.service.failures import FailureClass
from dljobs.service.states import LIVE_RUNS, RunState

from .columns import AnyText, Id, metadata, one_of

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("token", String(64), nullable=False),
    Column("worker_id", ForeignKey("workers.id"), nullable=False),
    Column("num_devices", Integer, nullable=False, server_default=text("1")),  # that it got
    Column("created_at", Double, nullable=False),
    Column("claimed_at", Double),
    Column("started_at", Double),
    Column("first_step_at", Double),
    Column("ended_at", Double),
    Column("step", BigInteger, nullable=False, server_default=text("0")),
    Column("total_steps", BigInteger, nullable=False, server_default=text("0")),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("steps_per_s", Double),
    # What it does before its first step, and how far it is with that.
    Column("stage", AnyText, nullable=False, server_default=text("''")),
    Column("peak_memory_bytes", BigInteger),  # of a device, the most over its ranks; null: not measured
    Column("progress_at", Double),
    # How far the run's spool of events and output has been taken over, written with the rows that came from it.
    Column("spool_json", Text, nullable=False, server_default=text("'{}'")),
    Column("checkpoint_requested_at", Double),  # null: none is asked for, or it has been taken
    Column("failure_class", String(16)),
    # The job that is to have its devices: the run has to checkpoint and go.
    Column("preempted_for_id", Id),
    Column("reason", AnyText, nullable=False, server_default=text("''")),
    Column("decision", AnyText, nullable=False, server_default=text("''")),  # on the job, when the run ended
    Column("evidence_json", Text),  # what the class was judged by
    Column("error_json", Text),
    Column("result_json", Text),
    one_of("state", RunState),
    one_of("failure_class", FailureClass, nullable=True),
    UniqueConstraint("job_id", "number"),
    Index(None, "worker_id", "state"),
    Index(None, "ended_at"),  # what was had within a period
    sqlite_autoincrement=True,
)
_LIVE = text("state IN ({})".format(", ".join(f"'{state}'" for state in LIVE_RUNS)))
Index("uq_runs_live", runs.c.job_id, unique=True, info={"where": _LIVE})

# What each worker of a run does for it; the head's has node rank 0 (`parts.py`).
run_parts = Table(
    "run_parts",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("node_rank", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", ForeignKey("workers.id"), nullable=False),
    Column("claimed_at", Double),
    Column("ready_at", Double),
    Column("endpoint", String(255)),  # of the head: host:port of the rendezvous
    Column("started_at", Double),
    Column("stop", String(16)),  # its worker asks for the end of the whole run, for this reason (a FailureClass)
    Column("ended_at", Double),
    Column("evidence_json", Text),  # how its ranks ended
    Column("spool_json", Text, nullable=False, server_default=text("'{}'")),  # as of `runs`; the head's is there
    Index(None, "worker_id", "ended_at"),  # what a worker has to do, however much it has done
)

leases = Table(
    "leases",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("device_id", ForeignKey("devices.id"), nullable=False),
    Column("node_rank", Integer, nullable=False, server_default=text("0")),
    Column("token", String(64), nullable=False),
    Column("percent", Integer, nullable=False, server_default=text("100")),  # of the device
    Column("memory_bytes", BigInteger, nullable=False, server_default=text("0")),  # kept for it, of a shared device
    Column("acquired_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("released_at", Double),
    CheckConstraint("percent BETWEEN 1 AND 100", name="percent"),
    Index(None, "run_id"),
    sqlite_autoincrement=True,
)
_HELD = text("released_at IS NULL")
Index("ix_leases_live", leases.c.device_id, info={"where": _HELD})
_WHOLE = text("released_at IS NULL AND percent = 100")
Index("uq_leases_whole", leases.c.device_id, unique=True, info={"where": _WHOLE})
