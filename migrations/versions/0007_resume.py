"""Resume: checkpoints on request, what a job continues, why a run ended and what followed, replays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("resumed_from_job_id", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("resumed_from_artifact_id", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("checkpoint_requested_at", sa.Double(), nullable=True))
    op.add_column("runs", sa.Column("decision", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("runs", sa.Column("evidence_json", sa.Text(), nullable=True))
    op.create_table(
        "verifications",
        sa.Column("id", big, nullable=False),
        sa.Column("job_id", big, nullable=False),
        sa.Column("by_job_id", big, nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("from_step", sa.BigInteger(), nullable=False),
        sa.Column("to_step", sa.BigInteger(), nullable=False),
        sa.Column("is_exact", sa.Integer(), nullable=False),
        sa.Column("result_json", sa.Text(), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_verifications_job_id_jobs")),
        sa.ForeignKeyConstraint(["by_job_id"], ["jobs.id"], name=op.f("fk_verifications_by_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verifications")),
        sa.UniqueConstraint("by_job_id", name=op.f("uq_verifications_by_job_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_verifications_job_id"), "verifications", ["job_id"], unique=False)


def downgrade() -> None:
    op.drop_table("verifications")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("evidence_json")
        batch_op.drop_column("decision")
        batch_op.drop_column("checkpoint_requested_at")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("resumed_from_artifact_id")
        batch_op.drop_column("resumed_from_job_id")
