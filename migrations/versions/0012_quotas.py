"""Quotas: the runs of a period are found by when they ended."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_runs_ended_at", "runs", ["ended_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_runs_ended_at", table_name="runs")
