"""Heirs: the jobs that continue another one are found by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    some = sa.text("resumed_from_job_id IS NOT NULL")
    op.create_index("ix_jobs_heirs", "jobs", ["resumed_from_job_id"], sqlite_where=some, postgresql_where=some)


def downgrade() -> None:
    op.drop_index("ix_jobs_heirs", table_name="jobs")
