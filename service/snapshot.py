"""Snapshots: what the scheduler is given, read from the rows as they are.

Every query is bounded by what waits, what runs and what is offered; none looks at finished jobs, but for the last few
of each model that waits, by an index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from . import leases, ledger, nodes, quarantine, registration
from .clock import read_now
from .policy import ServicePolicy, read_policy
from .scheduling.estimates import RunProgress, expected_end_at, usual_duration_s
from .scheduling.rows import (
    Condition,
    Dependency,
    OfferedDevice,
    OfferingWorker,
    Progress,
    RunningJob,
    Snapshot,
    WaitingJob,
)
from .scheduling.usage import Spell, decayed_usage
from .selectors import from_json
from .states import PLACED_JOBS, WAITING_JOBS, JobState, WorkerState
from .tables import dependencies, jobs, runs

NUM_REMEMBERED = 5  # finished jobs of a model and a number of devices that say how long one takes

# As much of a job's row as scheduling needs: a spec of thousands of jobs would take longer to read than to plan.
_JOB_COLUMNS = (
    jobs.c.id,
    jobs.c.state,
    jobs.c.user,
    jobs.c.model,
    jobs.c.num_devices,
    jobs.c.num_nodes,
    jobs.c.may_spread,
    jobs.c.strategy,
    jobs.c.priority,
    jobs.c.tags_json,
    jobs.c.selector_json,
    jobs.c.time_limit_s,
    jobs.c.num_epochs,
    jobs.c.submitted_at,
    jobs.c.eligible_at,
    jobs.c.begin_at,
)


def take_snapshot(connection: Connection, *, lease_s: float) -> tuple[Snapshot, ServicePolicy]:
    """All rows that a plan depends on, and the policy in force."""
    now, policy = read_now(connection), read_policy(connection)
    waiting = list(connection.execute(select(*_JOB_COLUMNS).where(jobs.c.state.in_(WAITING_JOBS))).mappings())
    running = list_running(connection)
    history = _History(connection)
    usage = decayed_usage(list_spells(connection, running, now), now, policy.half_life_s)
    after = _dependencies(connection)
    snapshot = Snapshot(
        now=now,
        waiting=[_waiting_job(row, after.get(row["id"], ()), history) for row in waiting],
        workers=offering_workers(connection, lease_s=lease_s),
        running=[_running_job(row, history, now) for row in running],
        usage=usage,
    )
    return snapshot, policy


def list_running(connection: Connection) -> list[RowMapping]:
    """The jobs that hold devices, each with its run's progress."""
    progress = (runs.c.created_at, runs.c.step, runs.c.total_steps, runs.c.steps_per_s, runs.c.progress_at)
    # By the job's newest run: the states of all runs there ever were are in no index.
    newest = (runs.c.job_id == jobs.c.id) & (runs.c.number == jobs.c.num_runs)
    query = select(*_JOB_COLUMNS, *progress).join(runs, newest).where(jobs.c.state.in_(PLACED_JOBS))
    return list(connection.execute(query).mappings())


def list_spells(connection: Connection, running: Iterable[RowMapping], now: float) -> list[Spell]:
    """All use of devices that counts: of runs that ended, and of those that go on, until now."""
    spells = ledger.list_spells(connection)
    for row in running:
        spells.append(Spell(row["user"], (now - row["created_at"]) * row["num_devices"], row["created_at"], now))
    return spells


def offering_workers(connection: Connection, *, lease_s: float) -> list[OfferingWorker]:
    """The workers that take work, with their devices and who holds them. A silent worker takes none."""
    holders = {row["device_id"]: row["job_id"] for row in leases.held_devices(connection)}
    drained, quarantined = nodes.list_drained(connection), quarantine.list_quarantined(connection)
    offered: dict[int, list[OfferedDevice]] = {}
    for row in registration.list_devices(connection):
        # With its kind, so that `--gpu-type cuda` means any GPU.
        name = f"{row['kind']} {row['name']}"
        why = quarantined[row["id"]]["reason"] if row["id"] in quarantined else None
        device = OfferedDevice(row["id"], holders.get(row["id"]), name, row["memory_bytes"], why)
        offered.setdefault(row["worker_id"], []).append(device)
    return [
        OfferingWorker(
            row["id"],
            row["name"],
            tuple(offered.get(row["id"], ())),
            row["node"],
            json.loads(row["labels_json"]),
            drained[row["node"]]["reason"] if row["node"] in drained else None,
        )
        for row in registration.list_workers(connection)
        if row["state"] == WorkerState.ONLINE and row["silent_s"] <= lease_s
    ]


class _History:
    """How long finished jobs of a model took, asked once for each model and number of devices."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, int], list[float]] = {}

    def usual_duration_s(self, row: RowMapping) -> float | None:
        """What a job like this one takes; None if none has succeeded yet."""
        if row["num_epochs"] is None:
            return None
        key = (row["model"], row["num_devices"])
        if key not in self._known:
            self._known[key] = self._seconds_per_epoch(*key)
        return usual_duration_s(self._known[key], row["num_epochs"])

    def _seconds_per_epoch(self, model: str, num_devices: int) -> list[float]:
        like = (jobs.c.model == model, jobs.c.num_devices == num_devices, jobs.c.state == JobState.SUCCEEDED)
        took = select(jobs.c.started_at, jobs.c.ended_at, jobs.c.num_epochs)
        query = took.where(*like, jobs.c.num_epochs > 0, jobs.c.started_at.is_not(None))
        rows = self._connection.execute(query.order_by(jobs.c.id.desc()).limit(NUM_REMEMBERED))
        return [(row.ended_at - row.started_at) / row.num_epochs for row in rows]


def _waiting_job(row: RowMapping, after: tuple[Dependency, ...], history: _History) -> WaitingJob:
    limit_s = row["time_limit_s"]
    return WaitingJob(
        id=row["id"],
        num_devices=row["num_devices"],
        priority=row["priority"],
        submitted_at=row["submitted_at"],
        user=row["user"],
        tags=_tags(row),
        selector=from_json(row["selector_json"]),
        duration_s=history.usual_duration_s(row) if limit_s is None else limit_s,
        after=after,
        begin_at=row["begin_at"],
        eligible_at=row["eligible_at"],
        held=row["state"] == JobState.HELD,
        num_nodes=row["num_nodes"],
        may_spread=bool(row["may_spread"]),
        can_spread=row["strategy"] == "ddp" and row["num_nodes"] == 1 and not row["may_spread"],
    )


def _running_job(row: RowMapping, history: _History, now: float) -> RunningJob:
    progress = RunProgress(row["created_at"], row["step"], row["total_steps"], row["steps_per_s"], row["progress_at"])
    expected = expected_end_at(
        progress, now, time_limit_s=row["time_limit_s"], usual_duration_s=history.usual_duration_s(row)
    )
    return RunningJob(row["id"], row["num_devices"], row["user"], _tags(row), expected)


def _tags(row: RowMapping) -> tuple[str, ...]:
    text = row["tags_json"]
    return () if text == "[]" else tuple(json.loads(text))


def _dependencies(connection: Connection) -> dict[int, tuple[Dependency, ...]]:
    """What each job in the queue waits for."""
    other = jobs.alias("other")
    query = (
        select(dependencies, other.c.state)
        .join(jobs, jobs.c.id == dependencies.c.job_id)
        .join(other, other.c.id == dependencies.c.after_id)
        .where(jobs.c.state.in_(WAITING_JOBS))
        .order_by(dependencies.c.job_id, dependencies.c.after_id)
    )
    found: dict[int, tuple[Dependency, ...]] = {}
    for row in connection.execute(query).mappings():
        each = Dependency(row["after_id"], Condition(row["condition"]), _progress(row["state"]))
        found[row["job_id"]] = (*found.get(row["job_id"], ()), each)
    return found


def _progress(state: Any) -> Progress:
    if state == JobState.SUCCEEDED:
        return Progress.SUCCEEDED
    return Progress.FAILED if state in (JobState.FAILED, JobState.CANCELLED) else Progress.PENDING
