"""Scheduling: requests for devices, dependencies, drained nodes, the ledger of use, the policy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("selector_json", sa.Text(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("jobs", sa.Column("begin_at", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("num_epochs", sa.Integer(), nullable=True))
    op.create_index("ix_jobs_history", "jobs", ["model", "num_devices", "state", "id"], unique=False)
    op.add_column("workers", sa.Column("labels_json", sa.Text(), server_default=sa.text("'{}'"), nullable=False))
    op.create_table(
        "dependencies",
        sa.Column("job_id", big, nullable=False),
        sa.Column("after_id", big, nullable=False),
        sa.Column("condition", sa.String(length=16), nullable=False),
        sa.CheckConstraint("condition IN ('ok', 'fail', 'any')", name=op.f("ck_dependencies_condition")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_dependencies_job_id_jobs")),
        sa.ForeignKeyConstraint(["after_id"], ["jobs.id"], name=op.f("fk_dependencies_after_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "after_id", name=op.f("pk_dependencies")),
    )
    op.create_table(
        "ledger",
        sa.Column("id", big, nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("device_s", sa.Double(), nullable=False),
        sa.Column("begun_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "policy",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("policy_json", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_policy_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy")),
    )
    op.create_table(
        "drained_nodes",
        sa.Column("node", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("drained_by", sa.String(length=200), nullable=False),
        sa.Column("drained_at", sa.Double(), nullable=False),
        sa.Column("evicts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_drained_nodes")),
    )


def downgrade() -> None:
    op.drop_table("drained_nodes")
    op.drop_table("policy")
    op.drop_table("ledger")
    op.drop_table("dependencies")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("labels_json")
    op.drop_index("ix_jobs_history", table_name="jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("num_epochs")
        batch_op.drop_column("begin_at")
        batch_op.drop_column("selector_json")
