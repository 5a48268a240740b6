"""Ranges of devices, and shares of one: what a job takes at the least, what a run got, what is leased of a device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_HELD = sa.text("released_at IS NULL")
_WHOLE = sa.text("released_at IS NULL AND percent = 100")
# Both databases take a check together with its column; so SQLite need not make the tables anew.
_CHECKED = (
    ("jobs", "min_devices", "1", "min_devices BETWEEN 1 AND num_devices"),
    ("jobs", "share_percent", "100", "share_percent BETWEEN 1 AND 100 AND (share_percent = 100 OR num_devices = 1)"),
    ("devices", "leased_percent", "0", "leased_percent BETWEEN 0 AND 100"),
    ("leases", "percent", "100", "percent BETWEEN 1 AND 100"),
)


def upgrade() -> None:
    for table, column, default, check in _CHECKED:
        constraint = f"CONSTRAINT ck_{table}_{column} CHECK ({check})"
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER DEFAULT {default} NOT NULL {constraint}")
    op.add_column("jobs", sa.Column("batch_size", sa.Integer(), nullable=True))
    op.add_column("runs", sa.Column("num_devices", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("runs", sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("leases", sa.Column("memory_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.execute("UPDATE jobs SET min_devices = num_devices")
    op.execute("UPDATE runs SET num_devices = (SELECT num_devices FROM jobs WHERE jobs.id = runs.job_id)")
    op.execute(
        "UPDATE devices SET leased_percent = 100 WHERE id IN (SELECT device_id FROM leases WHERE released_at IS NULL)"
    )
    op.drop_index("uq_leases_live", table_name="leases")
    op.create_index("ix_leases_live", "leases", ["device_id"], sqlite_where=_HELD, postgresql_where=_HELD)
    op.create_index(
        "uq_leases_whole", "leases", ["device_id"], unique=True, sqlite_where=_WHOLE, postgresql_where=_WHOLE
    )


def downgrade() -> None:
    op.drop_index("uq_leases_whole", table_name="leases")
    op.drop_index("ix_leases_live", table_name="leases")
    op.create_index("uq_leases_live", "leases", ["device_id"], unique=True, sqlite_where=_HELD, postgresql_where=_HELD)
    op.drop_column("leases", "memory_bytes")
    op.drop_column("runs", "peak_memory_bytes")
    op.drop_column("runs", "num_devices")
    op.drop_column("jobs", "batch_size")
    for table, column, _default, _check in reversed(_CHECKED):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
