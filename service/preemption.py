"""Preemption as rows: who is asked to go and for whom, and the devices that are kept for a job meanwhile.

Whom it hits is decided by `scheduling/preemption.py`. A request is a column of the run, which its worker obeys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from . import offers
from .events import record
from .parts import list_parts
from .scheduling.planning import Kept
from .scheduling.rows import Preempted
from .states import LIVE_RUNS
from .tables import jobs, kept_devices, runs


@dataclass(frozen=True)
class Asked:
    """A part of a run that was asked to go: ring its worker."""

    run_id: int
    worker_name: str


def ask_to_go(connection: Connection, decision: Preempted) -> list[Asked]:
    """Have the job's run checkpoint and go; empty if it has ended since, or is asked already."""
    live = (runs.c.job_id == decision.job_id, runs.c.state.in_(LIVE_RUNS), runs.c.preempted_for_id.is_(None))
    asked = update(runs).where(*live).values(preempted_for_id=decision.for_job_id)
    run_id = connection.execute(asked.returning(runs.c.id)).scalar_one_or_none()
    if run_id is None:
        return []
    words = describe(connection, decision.for_job_id)
    record(connection, "preempted", words, actor="scheduler", job_id=decision.job_id, run_id=run_id)
    return [Asked(run_id, part["worker"]) for part in list_parts(connection, run_id)]


def describe(connection: Connection, for_job_id: int) -> str:
    """By whom a run is preempted."""
    row = connection.execute(select(jobs.c.user, jobs.c.priority).where(jobs.c.id == for_job_id)).one()
    return f"preempted by job {for_job_id} of {row.user} (priority {row.priority})"


def keep(connection: Connection, kept: Mapping[int, Kept]) -> None:
    """Keep just these devices; the caller is the only scheduler."""
    wanted = {device_id: job_id for job_id, each in kept.items() for device_id in each.device_ids}
    known = {device_id: job_id for job_id, ids in offers.list_kept(connection).items() for device_id in ids}
    if wanted == known:
        return
    connection.execute(delete(kept_devices))
    if wanted:
        rows = [{"device_id": device_id, "job_id": job_id} for device_id, job_id in wanted.items()]
        connection.execute(insert(kept_devices), rows)
