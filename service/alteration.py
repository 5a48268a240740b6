"""Alterations: what may be changed about jobs that wait, one or all of a set, and what is checked again when it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, select, update

from dljobs.errors import DljobsError, UsageError

from . import sets
from .axes import MAX_JOBS
from .bounds import check_priority, check_range, check_text
from .events import record, record_all
from .jobs import get_job, size_of
from .placing import check_nodes, resolve_placing
from .policy import read_policy
from .sizes import Size
from .spec import JobSpec
from .states import WAITING_JOBS
from .tables import jobs
from .tables import sets as set_table

_PLACING = ("strategy", "num_devices", "min_devices", "share_percent", "num_nodes", "may_spread")


def alter_job(connection: Connection, job_id: int, changes: Mapping[str, Any], *, actor: str) -> None:
    """Change priority, size, num_nodes, may_spread, is_preemptible, time_limit_s or name of a job that waits.

    Args:
        changes: new values; the size is a `Size`, all others are columns.

    Raises:
        DljobsError: the job does not wait.
        UsageError: a value cannot be right.
    """
    job = get_job(connection, job_id, lock=True)
    if "max_parallel" in changes:
        raise UsageError(f"job {job_id} is one job, and --max-parallel is about a set", "name a set, such as s3")
    if job["state"] not in WAITING_JOBS:
        raise DljobsError(f"job {job_id} is {job['state']}: only a job that waits can be changed")
    values, words = dict(changes), [f"{name} {job[name]} → {value}" for name, value in changes.items() if name in job]
    _check(connection, changes)
    if "size" in values:
        size = values.pop("size")
        words.append(f"devices {size_of(job)} → {size}")
        values |= _other_size(job["spec_json"], size)
    _check_placing([{**job, **values}])
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
    record(connection, "updated", f"{actor} changed {', '.join(words)}", actor=actor, job_id=job_id)


def alter_set(connection: Connection, set_id: int, changes: Mapping[str, Any], *, actor: str) -> None:
    """Change max_parallel of a set, and of its jobs that wait what `alter_job` can change of one: of all or of none.

    Raises:
        DljobsError: none of its jobs waits.
        UsageError: a value cannot be right.
    """
    row, of_set, values = sets.get_set(connection, set_id), sets.lock_jobs(connection, set_id), dict(changes)
    if (number := values.pop("max_parallel", None)) is not None:
        check_range("max-parallel", number, 1, MAX_JOBS)
        sets.set_max_parallel(connection, set_id, number)
        was = "as many as fit" if row["max_parallel"] is None else row["max_parallel"]
        record(connection, "updated", f"{actor} changed max_parallel of s{set_id} {was} → {number}", actor=actor)
    if not values:
        return
    waiting = and_(of_set, jobs.c.state.in_(WAITING_JOBS))
    if connection.execute(select(jobs.c.id).where(waiting).limit(1)).first() is None:
        raise DljobsError(f"no job of s{set_id} waits: only a job that waits can be changed")
    _check(connection, values)
    words = [f"{'devices' if name == 'size' else name} → {value}" for name, value in values.items()]
    if "name" in values:
        connection.execute(update(set_table).where(set_table.c.id == set_id).values(name=values["name"]))
    if (size := values.pop("size", None)) is not None:
        _resize(connection, waiting, size)
    if values:
        connection.execute(update(jobs).where(waiting).values(**values))
    placings = select(*(jobs.c[name] for name in _PLACING)).where(waiting).distinct()
    _check_placing(connection.execute(placings).mappings())
    record_all(connection, "updated", f"{actor} changed {', '.join(words)}", waiting, actor=actor, to_state=None)


def _check(connection: Connection, changes: Mapping[str, Any]) -> None:
    if "priority" in changes:
        check_priority(changes["priority"], read_policy(connection).priority_ceiling)
    if "name" in changes:
        check_text("name", changes["name"])


def _check_placing(placings: Iterable[Mapping[Any, Any]]) -> None:
    for job in placings:
        check_nodes(job["strategy"], size_of(job), job["num_nodes"], may_spread=job["may_spread"])


def _resize(connection: Connection, which: ColumnElement[bool], size: Size) -> None:
    """Give each of these jobs other devices; what it trains may differ, so each has its own spec to be held against."""
    found = connection.execute(select(jobs.c.id, jobs.c.spec_json).where(which))
    rows = [{"of_job": row.id, **_other_size(row.spec_json, size)} for row in found]
    columns: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "of_job"}
    connection.execute(update(jobs).where(jobs.c.id == bindparam("of_job")).values(**columns), rows)


def _other_size(spec_json: str, size: Size) -> dict[str, Any]:
    """The columns of a job that trains on other devices; one that has run before goes on with the same batches."""
    spec = JobSpec.from_json(spec_json)
    if spec.kind != "train" and size.num_devices != 1:
        raise UsageError("an evaluation takes one device")
    # What `auto` would have chosen; DataParallel stays what it was wherever it can be.
    strategy = "dp" if spec.strategy == "dp" and size.num_devices > 1 else "auto"
    resolved = resolve_placing(strategy, size, spec.training.batch_size)
    spec = dataclasses.replace(spec, num_devices=size.num_devices, strategy=resolved)
    return {**dataclasses.asdict(size), "strategy": resolved, "spec_json": spec.to_json()}
