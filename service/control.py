"""Control: what users ask of jobs that are already there. Each writes its row first and rings second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from . import alteration, jobs, nodes, offers, quarantine, registration, runs
from .database import Database
from .doorbell import Doorbell
from .parts import list_parts
from .states import ENDED_JOBS, LIVE_RUNS


def cancel(database: Database, doorbell: Doorbell, job_id: int, *, actor: str) -> bool:
    """Cancel a waiting job, or ask the workers of a placed one to end it; False if Redis does not answer.

    Raises:
        DljobsError: the job has already ended.
    """
    with database.write() as connection:
        state = jobs.request_cancel(connection, job_id, actor=actor)
        run = runs.latest_run(connection, job_id)
        live = state not in ENDED_JOBS and run is not None and run["state"] in LIVE_RUNS
        placed = list_parts(connection, run["id"]) if live and run is not None else []
    if placed:
        answers = [doorbell.ring_attend(part["worker"], part["run_id"]) for part in placed]
        return all(answers)
    doorbell.ring_schedule()  # it may have kept others waiting; it has itself ended, whether anyone hears or not
    return True


def checkpoint(database: Database, doorbell: Doorbell, job_id: int, *, actor: str) -> tuple[RowMapping, bool]:
    """Ask a job that trains for a checkpoint; its run as it is then, and False if Redis does not answer.

    Raises:
        DljobsError: it does not train now.
    """
    with database.write() as connection:
        run = runs.request_checkpoint(connection, job_id, actor=actor)
        worker = registration.get_worker(connection, run["worker_id"])
    return run, worker is not None and doorbell.ring_attend(worker["name"], run["id"])


def retry(database: Database, doorbell: Doorbell, job_id: int, *, actor: str, fresh: bool) -> bool:
    """Queue a failed or cancelled job again; False if Redis does not answer.

    Raises:
        DljobsError: the job is in another state.
    """
    with database.write() as connection:
        jobs.retry_job(connection, job_id, actor=actor, fresh=fresh)
    return doorbell.ring_schedule()


def update(database: Database, doorbell: Doorbell, job_id: int, changes: Mapping[str, Any], *, actor: str) -> bool:
    """Change a job that waits; False if Redis does not answer.

    Args:
        changes: new values of priority, size, num_nodes, may_spread, is_preemptible, time_limit_s, name.

    Raises:
        DljobsError: the job does not wait, or a value cannot be right.
    """
    with database.write() as connection:
        alteration.alter_job(connection, job_id, changes, actor=actor)
    return doorbell.ring_schedule()


def drain(database: Database, doorbell: Doorbell, node: str, *, actor: str, reason: str, evict: bool) -> bool:
    """Give a node nothing new, and with `evict` have its runs go elsewhere; False if Redis does not answer.

    Raises:
        NotFound: no worker was ever on such a node.
    """
    with database.write() as connection:
        nodes.drain_node(connection, node, actor=actor, reason=reason, evict=evict)
        workers = {row["id"]: row["name"] for row in offers.list_workers(connection) if row["node"] == node}
        live = [(name, run["id"]) for each, name in workers.items() for run in runs.live_runs_of(connection, each)]
    answers = [doorbell.ring_attend(name, run_id) for name, run_id in live] if evict else []
    return all(answers)


def undrain(database: Database, doorbell: Doorbell, node: str, *, actor: str) -> bool:
    """Let a node take work again; False if Redis does not answer.

    Raises:
        NotFound: no worker was ever on such a node.
        UsageError: it is not drained.
    """
    with database.write() as connection:
        nodes.undrain_node(connection, node, actor=actor)
    return doorbell.ring_schedule()


def release_device(database: Database, doorbell: Doorbell, name: str, *, actor: str) -> tuple[str, bool]:
    """Let a device (`NODE:DEVICE`) out of quarantine; its full name, and False if Redis does not answer.

    Raises:
        UsageError, NotFound: it names no device, or one that is not in quarantine.
    """
    with database.write() as connection:
        device = quarantine.release(connection, name, actor=actor)
    return device, doorbell.ring_schedule()


def hold(database: Database, job_id: int, *, actor: str) -> None:
    """Keep a queued job from starting.

    Raises:
        DljobsError: the job is in another state.
    """
    with database.write() as connection:
        jobs.hold_job(connection, job_id, actor=actor)


def release(database: Database, doorbell: Doorbell, job_id: int, *, actor: str) -> bool:
    """Let a held job go; False if Redis does not answer.

    Raises:
        DljobsError: the job is in another state.
    """
    with database.write() as connection:
        jobs.hold_job(connection, job_id, actor=actor, release=True)
    return doorbell.ring_schedule()
