"""Preemption: jobs that may be preempted, for whom a run has to go, and the devices that are kept meanwhile."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("is_preemptible", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("num_preempted", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("runs", sa.Column("preempted_for_id", big, nullable=True))
    op.create_table(
        "kept_devices",
        sa.Column("device_id", big, autoincrement=False, nullable=False),
        sa.Column("job_id", big, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_kept_devices_device_id_devices")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_kept_devices_job_id_jobs")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_kept_devices")),
    )


def downgrade() -> None:
    op.drop_table("kept_devices")
    op.drop_column("runs", "preempted_for_id")
    op.drop_column("jobs", "num_preempted")
    op.drop_column("jobs", "is_preemptible")
