"""The tables, and the constraints that guard the truths of the design.

Moments are `double` seconds since 1970 by the database's own clock (`clock.py`). Columns named `*_json` hold JSON text.
Migrations in `migrations/` create exactly this; a test compares the two on SQLite and on Postgres.
"""

from __future__ import annotations

from .cluster import devices, drained_nodes, kept_devices, quarantines, workers
from .columns import metadata
from .queue import dependencies, jobs, ledger, policy, set_dependencies, sets
from .records import (
    artifact_blobs,
    artifacts,
    blobs,
    evaluations,
    events,
    logs,
    metrics,
    scores,
    sources,
    verifications,
)
from .running import leases, run_parts, runs

__all__ = [
    "artifact_blobs",
    "artifacts",
    "blobs",
    "dependencies",
    "devices",
    "drained_nodes",
    "evaluations",
    "events",
    "jobs",
    "kept_devices",
    "leases",
    "ledger",
    "logs",
    "metadata",
    "metrics",
    "policy",
    "quarantines",
    "run_parts",
    "runs",
    "scores",
    "set_dependencies",
    "sets",
    "sources",
    "verifications",
    "workers",
]
