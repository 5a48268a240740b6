"""Sets: arrays and sweeps, what waits for them, and the trials that successive halving prunes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WITHOUT = "'time-limit', 'cancelled')"
_WITH = "'time-limit', 'cancelled', 'pruned')"
_OTHERS = "'user', 'data', 'oom', 'killed', 'device', 'storage', 'node-lost', 'preempted', 'hung', "


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "sets",
        sa.Column("id", big, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("metric", sa.String(length=100), nullable=False),
        sa.Column("goal", sa.String(length=16), nullable=False),
        sa.Column("num_jobs", sa.Integer(), nullable=False),
        sa.Column("axes_json", sa.Text(), nullable=False),
        sa.Column("max_parallel", sa.Integer(), nullable=True),
        sa.Column("halving_json", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.CheckConstraint("goal IN ('max', 'min')", name=op.f("ck_sets_goal")),
        sa.CheckConstraint("num_jobs >= 1", name=op.f("ck_sets_num_jobs")),
        sa.CheckConstraint("max_parallel >= 1", name=op.f("ck_sets_max_parallel")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sets")),
        sa.UniqueConstraint("user", "idempotency_key", name=op.f("uq_sets_user_idempotency_key")),
        sqlite_autoincrement=True,
    )
    # Both databases take a reference together with its column; so SQLite need not make the table anew.
    op.execute(f"ALTER TABLE jobs ADD COLUMN set_id {_big()} CONSTRAINT fk_jobs_set_id_sets REFERENCES sets (id)")
    op.add_column("jobs", sa.Column("set_index", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("point_json", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("prune_reason", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("may_be_pruned", sa.Integer(), server_default=sa.text("1"), nullable=False))
    _change_classes(_WITHOUT, _WITH)
    op.create_index("ix_jobs_set", "jobs", ["set_id", "state", "failure_class"], unique=False)
    op.create_index("uq_jobs_member", "jobs", ["set_id", "set_index"], unique=True)
    op.create_table(
        "set_dependencies",
        sa.Column("job_id", big, nullable=False),
        sa.Column("after_set_id", big, nullable=False),
        sa.Column("condition", sa.String(length=16), nullable=False),
        sa.CheckConstraint("condition IN ('ok', 'fail', 'any')", name=op.f("ck_set_dependencies_condition")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_set_dependencies_job_id_jobs")),
        sa.ForeignKeyConstraint(["after_set_id"], ["sets.id"], name=op.f("fk_set_dependencies_after_set_id_sets")),
        sa.PrimaryKeyConstraint("job_id", "after_set_id", name=op.f("pk_set_dependencies")),
    )


def downgrade() -> None:
    op.drop_table("set_dependencies")
    for table in ("jobs", "runs"):
        rows = sa.table(table, sa.column("failure_class", sa.String()))
        op.execute(rows.update().where(rows.c.failure_class == "pruned").values(failure_class="cancelled"))
    _change_classes(_WITH, _WITHOUT)
    op.drop_index("uq_jobs_member", table_name="jobs")
    op.drop_index("ix_jobs_set", table_name="jobs")
    for column in ("may_be_pruned", "prune_reason", "point_json", "set_index", "set_id"):
        op.drop_column("jobs", column)
    op.drop_table("sets")


def _big() -> str:
    return "INTEGER" if op.get_bind().dialect.name == "sqlite" else "BIGINT"


def _change_classes(before: str, after: str) -> None:
    """Change the end of the list of failure classes in the checks of jobs and runs."""
    if op.get_bind().dialect.name == "sqlite":
        # As SQLite's page on ALTER TABLE has it for checks: the rows stay where they are, and so do all other checks.
        op.execute("PRAGMA writable_schema = ON")
        schema = sa.table("sqlite_master", sa.column("name", sa.String()), sa.column("sql", sa.String()))
        changed = schema.update().where(schema.c.name.in_(("jobs", "runs")))
        op.execute(changed.values(sql=sa.func.replace(schema.c.sql, before, after)))
        op.execute("PRAGMA writable_schema = RESET")
        return
    for table in ("jobs", "runs"):
        name = op.f(f"ck_{table}_failure_class")
        op.drop_constraint(name, table, type_="check")
        op.create_check_constraint(name, table, f"failure_class IS NULL OR failure_class IN ({_OTHERS}{after}")
