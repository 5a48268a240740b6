"""Tables of the queue: jobs, the sets they were submitted in, what they wait for, and what decides among them."""

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
from dljobs.service.scheduling.rows import Condition
from dljobs.service.states import JobState

from .columns import AnyText, Id, metadata, one_of

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
    one_of("state", JobState),
    one_of("failure_class", FailureClass, nullable=True),
    CheckConstraint("num_devices >= 1", name="num_devices"),
    CheckConstraint("num_nodes >= 1", name="num_nodes"),
    CheckConstraint("min_devices BETWEEN 1 AND num_devices", name="min_devices"),
    CheckConstraint(
        "share_percent BETWEEN 1 AND 100 AND (share_percent = 100 OR num_devices = 1)", name="share_percent"
    ),
    CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
    UniqueConstraint("user", "idempotency_key"),
    Index("ix_jobs_line", "state", "user", "priority", "submitted_at", "id"),  # the queue, line by line (`front.py`)
    Index("ix_jobs_history", "model", "num_devices", "state", "id"),  # how long the like of it took
    Index("ix_jobs_set", "set_id", "state", "failure_class"),  # all that counting needs
    # Pages of jobs, newest first, one state after the other (`pages.py`).
    Index("ix_jobs_page", "state", "id"),
    Index("ix_jobs_page_user", "user", "state", "id"),
    Index("ix_jobs_page_model", "model", "state", "id"),
    Index("uq_jobs_member", "set_id", "set_index", unique=True),
    sqlite_autoincrement=True,
)

Index("ix_jobs_page_alone", jobs.c.state, jobs.c.id, info={"where": text("set_id IS NULL")})  # of no set
_CONTINUES = text("resumed_from_job_id IS NOT NULL")
Index("ix_jobs_heirs", jobs.c.resumed_from_job_id, info={"where": _CONTINUES})  # the few that continue another job

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
    one_of("condition", Condition),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("after_id", ForeignKey("jobs.id"), primary_key=True),
    Column("condition", String(16), nullable=False),
    one_of("condition", Condition),
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
