"""Runs over several nodes: what jobs ask for, and the part that each worker has in a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("num_nodes", sa.Integer(), server_default=sa.text("1"), nullable=False))
        batch_op.add_column(sa.Column("may_spread", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.create_check_constraint(op.f("ck_jobs_num_nodes"), "num_nodes >= 1")
    op.add_column("leases", sa.Column("node_rank", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "run_parts",
        sa.Column("run_id", big, nullable=False),
        sa.Column("node_rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", big, nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("endpoint", sa.String(length=255), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("stop", sa.String(length=16), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("evidence_json", sa.Text(), nullable=True),
        sa.Column("spool_json", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_parts_run_id_runs")),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_run_parts_worker_id_workers")),
        sa.PrimaryKeyConstraint("run_id", "node_rank", name=op.f("pk_run_parts")),
    )
    op.create_index("ix_run_parts_worker_id_ended_at", "run_parts", ["worker_id", "ended_at"], unique=False)
    # What there is has one part each; a run that is on must not lose its worker by this.
    op.execute(
        "INSERT INTO run_parts (run_id, node_rank, worker_id, claimed_at, started_at, ended_at)"
        " SELECT id, 0, worker_id, claimed_at, started_at, ended_at FROM runs"
    )


def downgrade() -> None:
    op.drop_index("ix_run_parts_worker_id_ended_at", table_name="run_parts")
    op.drop_table("run_parts")
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("node_rank")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_constraint(op.f("ck_jobs_num_nodes"), type_="check")
        batch_op.drop_column("may_spread")
        batch_op.drop_column("num_nodes")
