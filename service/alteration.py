"""Alterations: what may be changed about a job that waits, and what is checked again when it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, update

from dljobs.errors import DljobsError, UsageError

from .bounds import check_priority, check_text
from .events import record
from .jobs import get_job, size_of
from .placing import check_nodes, resolve_placing
from .policy import read_policy
from .sizes import Size
from .spec import JobSpec
from .states import WAITING_JOBS
from .tables import jobs


def alter_job(connection: Connection, job_id: int, changes: Mapping[str, Any], *, actor: str) -> None:
    """Change priority, size, num_nodes, may_spread, time_limit_s or name of a job in the queue, and record it.

    Args:
        changes: new values; the size is a `Size`, all others are columns.

    Raises:
        DljobsError: the job does not wait.
        UsageError: a value cannot be right.
    """
    job = get_job(connection, job_id, lock=True)
    if job["state"] not in WAITING_JOBS:
        raise DljobsError(f"job {job_id} is {job['state']}: only a job that waits can be changed")
    values, words = dict(changes), [f"{name} {job[name]} → {value}" for name, value in changes.items() if name in job]
    if "priority" in values:
        check_priority(values["priority"], read_policy(connection).priority_ceiling)
    if "name" in values:
        check_text("name", values["name"])
    if "size" in values:
        size = values.pop("size")
        words.append(f"devices {size_of(job)} → {size}")
        values |= _other_size(job, size)
    changed = {**job, **values}
    check_nodes(changed["strategy"], size_of(changed), changed["num_nodes"], may_spread=changed["may_spread"])
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
    record(connection, "updated", f"{actor} changed {', '.join(words)}", actor=actor, job_id=job_id)


def _other_size(job: RowMapping, size: Size) -> dict[str, Any]:
    """The columns of a job that trains on other devices; one that has run before goes on with the same batches."""
    spec = JobSpec.from_json(job["spec_json"])
    if spec.kind != "train" and size.num_devices != 1:
        raise UsageError("an evaluation takes one device")
    # What `auto` would have chosen; DataParallel stays what it was wherever it can be.
    strategy = "dp" if spec.strategy == "dp" and size.num_devices > 1 else "auto"
    resolved = resolve_placing(strategy, size, spec.training.batch_size)
    spec = dataclasses.replace(spec, num_devices=size.num_devices, strategy=resolved)
    return {**dataclasses.asdict(size), "strategy": resolved, "spec_json": spec.to_json()}
