"""Dispatch: load the rows, ask the scheduler, write what it decided, in one transaction under the scheduler's lock."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from dljobs.errors import DljobsError

from . import jobs, leases, registration, runs
from .clock import read_now
from .database import Database, Lock, wait_for_lock
from .scheduler import OfferedDevice, OfferingWorker, Plan, WaitingJob, plan
from .states import JobState, WorkerState


@dataclass(frozen=True)
class Dispatched:
    """A run that was placed: ring its worker."""

    key: runs.RunKey
    worker_name: str


def dispatch(database: Database, *, lease_s: float) -> list[Dispatched]:
    """Place what can be placed now."""
    with database.read() as connection:
        if not any(job["state"] == JobState.QUEUED for job in jobs.list_waiting(connection)):
            return []
    with database.write() as connection:
        # Waiting, not giving up: whoever holds it may have read the queue before the job at hand was committed.
        wait_for_lock(connection, Lock.SCHEDULING)
        names, planned = make_plan(connection, lease_s=lease_s)
        placed = []
        for placement in planned.placed:
            worker_id = placement.worker_id
            with suppress(DljobsError):  # cancelled or held since the plan was made
                key = runs.create_run(connection, placement.job_id, worker_id, placement.device_ids, lease_s)
                placed.append(Dispatched(key, names[worker_id]))
        return placed


def make_plan(connection: Connection, *, lease_s: float) -> tuple[dict[int, str], Plan]:
    """The scheduler's plan for the rows as they are, and the names of the workers in it; writes nothing."""
    waiting = [
        WaitingJob(
            id=row["id"],
            num_devices=row["num_devices"],
            priority=row["priority"],
            submitted_at=row["submitted_at"],
            eligible_at=row["eligible_at"],
            held=row["state"] == JobState.HELD,
        )
        for row in jobs.list_waiting(connection)
    ]
    offering = offering_workers(connection, lease_s=lease_s)
    names = {worker.id: worker.name for worker in offering}
    return names, plan(waiting, offering, read_now(connection))


def offering_workers(connection: Connection, *, lease_s: float) -> list[OfferingWorker]:
    """The workers that take work, with their devices and who holds them. A silent worker takes none."""
    holders = {row["device_id"]: row["job_id"] for row in leases.held_devices(connection)}
    offered: dict[int, list[OfferedDevice]] = {}
    for row in registration.list_devices(connection):
        device = OfferedDevice(row["id"], holders.get(row["id"]))
        offered.setdefault(row["worker_id"], []).append(device)
    return [
        OfferingWorker(row["id"], row["name"], tuple(offered.get(row["id"], ())))
        for row in registration.list_workers(connection)
        if row["state"] == WorkerState.ONLINE and row["silent_s"] <= lease_s
    ]
