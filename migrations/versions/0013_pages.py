"""Pages: the newest jobs by state, user and model, and the best by a metric, each read from an index."""

from __future__ import annotations

import json
import math

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_AT_ONCE = 1000


def upgrade() -> None:
    op.create_index("ix_jobs_page", "jobs", ["state", "id"])
    op.create_index("ix_jobs_page_user", "jobs", ["user", "state", "id"])
    op.create_index("ix_jobs_page_model", "jobs", ["model", "state", "id"])
    alone = sa.text("set_id IS NULL")
    op.create_index("ix_jobs_page_alone", "jobs", ["state", "id"], sqlite_where=alone, postgresql_where=alone)
    scores = op.create_table(
        "scores",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("metric", sa.String(100), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_scores_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "metric", name="pk_scores"),
    )
    op.create_index("ix_scores_metric_value_job_id", "scores", ["metric", "value", "job_id"])
    _score_what_has_ended(scores)


def _score_what_has_ended(scores: sa.Table) -> None:
    connection, last = op.get_bind(), 0
    query = sa.text(
        "SELECT id, result_json FROM jobs WHERE id > :last AND state = 'succeeded' AND result_json IS NOT NULL "
        "ORDER BY id LIMIT :most"
    )
    while found := connection.execute(query, {"last": last, "most": _AT_ONCE}).all():
        rows = [
            {"job_id": row.id, "metric": metric, "value": float(value)}
            for row in found
            for metric, value in json.loads(row.result_json).items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if len(metric) <= 100
        ]
        if rows:
            connection.execute(scores.insert(), rows)
        last = found[-1].id


def downgrade() -> None:
    op.drop_table("scores")
    for name in ("ix_jobs_page_alone", "ix_jobs_page_model", "ix_jobs_page_user", "ix_jobs_page"):
        op.drop_index(name, table_name="jobs")
