"""Lines: the waiting jobs of one user and priority, in the order in which they were submitted, are a range of an index."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_line", "jobs", ["state", "user", "priority", "submitted_at", "id"])
    op.drop_index("ix_jobs_state_priority", table_name="jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_state_priority", "jobs", ["state", "priority", "submitted_at"])
    op.drop_index("ix_jobs_line", table_name="jobs")
