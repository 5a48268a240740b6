"""The tables, and the constraints that guard the truths of the design.

Moments are `double` seconds since 1970 by the database's own clock (`clock.py`). Columns named `*_json` hold JSON text.
Migrations in `migrations/` create exactly this; a test compares the two on SQLite and on Postgres.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import BigInteger, TypeDecorator

from .failures import FailureClass
from .scheduling.rows import Condition
from .states import LIVE_RUNS, JobState, RunState, WorkerState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite gives a 64-bit rowid only to a column declared INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class AnyText(TypeDecorator[str]):
    """Text that a user's program may have written: no database takes half a surrogate pair, and Postgres no NUL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "␀").encode("utf-8", "replace").decode()


def _one_of(column: str, values: Iterable[StrEnum], *, nullable: bool = False) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    null = f"{column} IS NULL OR " if nullable else ""
    return CheckConstraint(f"{null}{column} IN ({listed})", name=column)


jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("user", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("strategy", String(16), nullable=False),
    Column("num_devices", Integer, nullable=False),  # the most that it takes
    Column("min_devices", Integer, nullable=False, server_default=text("1")),
    Column("share_percent", Integer, nullable=False, server_default=text("100")),  # less: a part of one device
    Column("priority", Integer, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("spec_json", Text, nullable=False),
    Column("idempotency_key", String(200)),
    Column("time_limit_s", Double),
    Column("selector_json", Text, nullable=False, server_default=text("'{}'")),  # which devices, see `selectors.py`
    Column("num_nodes", Integer, nullable=False, server_default=text("1")),  # so many equal parts, each on another
    Column("may_spread", Integer, nullable=False, server_default=text("0")),  # 1: over the fewest nodes that fit
    Column("begin_at", Double),
    Column("num_epochs", Integer),  # null: it does not train
    Column("batch_size", Integer),  # with the model it says how much memory a run takes; null: it is not known
    Column("is_preemptible", Integer, nullable=False, server_default=text("0")),
    Column("num_preempted", Integer, nullable=False, server_default=text("0")),
    Column("max_retries", Integer, nullable=False),
    Column("num_retries", Integer, nullable=False, server_default=text("0")),
    Column("num_lost", Integer, nullable=False, server_default=text("0")),
    Column("num_runs", Integer, nullable=False, server_default=text("0")),
    # Checkpoints of earlier runs are not resumed from: `retry --fresh` raises it.
    Column("first_resumable_run", Integer, nullable=False, server_default=text("1")),
    Column("submitted_at", Double, nullable=False),
    Column("eligible_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("cancel_requested_at", Double),
    # What it continues, by hand; no foreign keys, as the checkpoint may be dropped once the job has ended.
    Column("resumed_from_job_id", BigInteger),
    Column("resumed_from_artifact_id", BigInteger),
    Column("failure_class", String(16)),
    Column("reason", AnyText, nullable=False, server_default=text("''")),
    Column("result_json", Text),
    Column("set_id", ForeignKey("sets.id")),
    Column("set_index", Integer),
    Column("point_json", Text),  # what it has of its set's axes: {"lr": 0.1, "seed": 3}
    Column("prune_reason", AnyText),  # why successive halving ends it; null: it goes on
    Column("may_be_pruned", Integer, nullable=False, server_default=text("1")),  # false: somebody wanted it to go on
    _one_of("state", JobState),
    _one_of("failure_class", FailureClass, nullable=True),
    CheckConstraint("num_devices >= 1", name="num_devices"),
    CheckConstraint("num_nodes >= 1", name="num_nodes"),
    CheckConstraint("min_devices BETWEEN 1 AND num_devices", name="min_devices"),
    CheckConstraint(
        "share_percent BETWEEN 1 AND 100 AND (share_percent = 100 OR num_devices = 1)", name="share_percent"
    ),
    CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
    UniqueConstraint("user", "idempotency_key"),
    Index("ix_jobs_state_priority", "state", "priority", "submitted_at"),
    Index("ix_jobs_history", "model", "num_devices", "state", "id"),  # how long the like of it took
    Index("ix_jobs_set", "set_id", "state", "failure_class"),  # all that counting needs
    Index("uq_jobs_member", "set_id", "set_index", unique=True),
    sqlite_autoincrement=True,
)

# Arrays and sweeps: jobs that were submitted as one, `jobs.set_id`.
sets = Table(
    "sets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("user", String(200), nullable=False),
    Column("idempotency_key", String(200)),
    Column("model", String(200), nullable=False),
    Column("metric", String(100), nullable=False),  # what its jobs are compared by
    Column("goal", String(16), nullable=False),
    Column("num_jobs", Integer, nullable=False),
    Column("axes_json", Text, nullable=False),  # see `axes.py`; its values are in `jobs.point_json`
    Column("max_parallel", Integer),  # jobs that may run at a time; null: as many as there is room for
    Column("halving_json", Text),  # the rule of `halving.py`
    Column("submitted_at", Double, nullable=False),
    CheckConstraint("goal IN ('max', 'min')", name="goal"),
    CheckConstraint("num_jobs >= 1", name="num_jobs"),
    CheckConstraint("max_parallel >= 1", name="max_parallel"),
    UniqueConstraint("user", "idempotency_key"),
    sqlite_autoincrement=True,
)

# A job that waits for all of a set.
set_dependencies = Table(
    "set_dependencies",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("after_set_id", ForeignKey("sets.id"), primary_key=True),
    Column("condition", String(16), nullable=False),
    _one_of("condition", Condition),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("after_id", ForeignKey("jobs.id"), primary_key=True),
    Column("condition", String(16), nullable=False),
    _one_of("condition", Condition),
)

# Device-seconds that users have had: a row for each run that ended, folded into one a user now and then.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user", String(200), nullable=False),
    Column("device_s", Double, nullable=False),
    Column("begun_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

# One row: what the workers' settings say of scheduling, so that every client explains by the same.
policy = Table(
    "policy",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("policy_json", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    CheckConstraint("id = 1", name="id"),
)

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
    _one_of("state", WorkerState),
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
    _one_of("state", RunState),
    _one_of("failure_class", FailureClass, nullable=True),
    UniqueConstraint("job_id", "number"),
    Index(None, "worker_id", "state"),
    Index(None, "ended_at"),  # what was had within a period
    sqlite_autoincrement=True,
)
_LIVE = text("state IN ({})".format(", ".join(f"'{state}'" for state in LIVE_RUNS)))
Index("uq_runs_live", runs.c.job_id, unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)

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
Index("ix_leases_live", leases.c.device_id, sqlite_where=_HELD, postgresql_where=_HELD)
_WHOLE = text("released_at IS NULL AND percent = 100")
Index("uq_leases_whole", leases.c.device_id, unique=True, sqlite_where=_WHOLE, postgresql_where=_WHOLE)

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
