"""Offers: the workers and devices that take work, who holds them, and what keeps work away from them.

It only reads, and in text, because the scheduler and `dljobs status` ask all of it each time.
"""

from __future__ import annotations

from .statements import AnyConnection, Row, rows


def list_workers(connection: AnyConnection) -> list[Row]:
    """All workers, with `silent_s`: seconds since the last heartbeat."""
    return rows(connection, "SELECT workers.*, NOW - heartbeat_at AS silent_s FROM workers ORDER BY name")


def list_devices(connection: AnyConnection) -> list[Row]:
    """All devices that a worker offers."""
    return rows(connection, "SELECT * FROM devices WHERE worker_id IS NOT NULL ORDER BY worker_id, position")


def held_devices(connection: AnyConnection) -> list[Row]:
    """Each live lease, by device and job: device_id, percent, memory_bytes, run_id, job_id."""
    found = rows(
        connection,
        "SELECT leases.device_id, leases.percent, leases.memory_bytes, leases.run_id, runs.job_id "
        "FROM leases JOIN runs ON runs.id = leases.run_id WHERE leases.released_at IS NULL",
    )
    return sorted(found, key=lambda row: (row["device_id"], row["job_id"]))


def list_kept(connection: AnyConnection) -> dict[int, tuple[int, ...]]:
    """The devices that are kept for jobs which preempt others, by job."""
    found: dict[int, tuple[int, ...]] = {}
    for row in rows(connection, "SELECT job_id, device_id FROM kept_devices ORDER BY device_id"):
        found[row["job_id"]] = (*found.get(row["job_id"], ()), row["device_id"])
    return found


def list_drained(connection: AnyConnection) -> dict[str, Row]:
    """The drained nodes by name."""
    return {row["node"]: row for row in rows(connection, "SELECT * FROM drained_nodes")}


def list_quarantined(connection: AnyConnection) -> dict[int, Row]:
    """The devices in quarantine now, by id."""
    return {row["device_id"]: row for row in rows(connection, "SELECT * FROM quarantines WHERE released_at IS NULL")}
