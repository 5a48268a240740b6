"""Tables of the cluster: the workers with their devices, and what keeps these from taking work."""

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

from dljobs.service.states import WorkerState

from .columns import AnyText, Id, metadata, one_of

# The nodes that take nothing new; any other has no row.
drained_nodes = Table(
    "drained_nodes",
    metadata,
    Column("node", String(200), primary_key=True),
    Column("reason", String(200), nullable=False),
    Column("drained_by", String(200), nullable=False),
    Column("drained_at", Double, nullable=False),
    Column("evicts", Integer, nullable=False, server_default=text("0")),  # 1: what runs there goes elsewhere
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("node", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_born", String(100), nullable=False),  # with the pid, a `ProcessMark`
    # Changes with each start: a process that was replaced finds its heartbeats refused.
    Column("session", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("versions_json", Text, nullable=False),
    Column("labels_json", Text, nullable=False, server_default=text("'{}'")),
    Column("registered_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    one_of("state", WorkerState),
    sqlite_autoincrement=True,
)

devices = Table(
    "devices",
    metadata,
    Column("id", Id, primary_key=True),
    Column("node", String(200), nullable=False),
    Column("uuid", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("position", Integer, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("worker_id", ForeignKey("workers.id")),  # null: no worker offers it now
    # What its live leases add up to, changed together with them: the check refuses whatever is too much.
    Column("leased_percent", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("leased_percent BETWEEN 0 AND 100", name="leased_percent"),
    CheckConstraint("kind IN ('cpu', 'cuda')", name="kind"),
    UniqueConstraint("node", "uuid"),
    Index(None, "worker_id"),
    sqlite_autoincrement=True,
)

# Devices that a waiting job is to have: those who hold them were preempted for it.
kept_devices = Table(
    "kept_devices",
    metadata,
    Column("device_id", ForeignKey("devices.id"), primary_key=True, autoincrement=False),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
)

# What failed a check (`quarantine.py`); a row that was released says which fault is accepted.
quarantines = Table(
    "quarantines",
    metadata,
    Column("device_id", ForeignKey("devices.id"), primary_key=True, autoincrement=False),
    Column("reason", AnyText, nullable=False),
    Column("fault_key", String(200), nullable=False),
    Column("since_at", Double, nullable=False),
    Column("num_tries", Integer, nullable=False),
    Column("next_try_at", Double, nullable=False),
    Column("released_at", Double),
    Column("released_by", String(200)),
)
