"""Alterations: what may be changed about a job that waits, and what is checked again when it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, update

from dljobs.errors import DljobsError, UsageError

from .events import record
from .jobs import get_job
from .policy import read_policy
from .spec import JobSpec
from .states import WAITING_JOBS
from .submission import check_nodes, check_priority, check_text, resolve_placing
from .tables import jobs


def alter_job(connection: Connection, job_id: int, changes: Mapping[str, Any], *, actor: str) -> None:
    """Change priority, num_devices, num_nodes, may_spread, time_limit_s or name of a job in the queue, and record it.

    Raises:
        DljobsError: the job does not wait, or it has begun and is to have another number of devices.
        UsageError: a value cannot be right.
    """
    job = get_job(connection, job_id, lock=True)
    if job["state"] not in WAITING_JOBS:
        raise DljobsError(f"job {job_id} is {job['state']}: only a job that waits can be changed")
    values = dict(changes)
    if "priority" in values:
        check_priority(values["priority"], read_policy(connection).priority_ceiling)
    if "name" in values:
        check_text("name", values["name"])
    if "num_devices" in values:
        values |= _other_devices(job, values["num_devices"])
    changed = {**job, **values}
    check_nodes(changed["strategy"], changed["num_devices"], changed["num_nodes"], may_spread=changed["may_spread"])
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
    words = ", ".join(f"{name} {job[name]} → {value}" for name, value in changes.items())
    record(connection, "updated", f"{actor} changed {words}", actor=actor, job_id=job_id)


def _other_devices(job: RowMapping, num_devices: int) -> dict[str, Any]:
    """The columns of a job that trains on another number of devices."""
    if job["num_runs"]:
        words = f"job {job['id']} has run before: its checkpoint is of {job['num_devices']} devices"
        raise UsageError(words, f"`dljobs cancel {job['id']}` and submit it anew with --gpus {num_devices}")
    spec = JobSpec.from_json(job["spec_json"])
    if spec.kind != "train" and num_devices != 1:
        raise UsageError("an evaluation takes one device")
    # What `auto` would have chosen; DataParallel stays what it was wherever it can be.
    strategy = "dp" if spec.strategy == "dp" and num_devices > 1 else "auto"
    resolved = resolve_placing(strategy, num_devices, spec.training.batch_size)
    spec = dataclasses.replace(spec, num_devices=num_devices, strategy=resolved)
    return {"strategy": resolved, "spec_json": spec.to_json()}
