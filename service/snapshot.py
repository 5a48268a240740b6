"""Snapshots: what the scheduler is given, read from the rows as they are.

Every query is bounded by what waits, what runs and what is offered; none looks at finished jobs, but for the last few
of each model that waits, by an index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select, true

from . import leases, ledger, nodes, preemption, quarantine, quotas, registration, sets
from .clock import read_now
from .database import IDS_AT_ONCE
from .front import read_all, read_front
from .gpus import CUDA_CONTEXT_BYTES
from .policy import ServicePolicy, read_policy
from .scheduling.estimates import RunProgress, expected_end_at, usual_duration_s
from .scheduling.rows import (
    Condition,
    Dependency,
    OfferedDevice,
    OfferingWorker,
    Progress,
    RunningJob,
    Selector,
    Sharer,
    Snapshot,
    WaitingJob,
)
from .scheduling.usage import Spell, decayed_usage
from .selectors import for_share, from_json
from .states import PLACED_JOBS, WAITING_JOBS, JobState, WorkerState
from .tables import dependencies, jobs, runs

NUM_REMEMBERED = 5  # finished jobs of a model and a number of devices that say how long one takes
NUM_MEASURED = 50  # finished jobs of a model on one device, among which those of a batch size say what memory it takes
MEASURED_HEADROOM = 1.1  # what another run may take more of a device's memory

_OTHERS = jobs.alias("other")  # those that jobs wait for; made once, as making it takes longer than the query

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
    jobs.c.min_devices,
    jobs.c.share_percent,
    jobs.c.batch_size,
    jobs.c.priority,
    jobs.c.tags_json,
    jobs.c.selector_json,
    jobs.c.time_limit_s,
    jobs.c.num_epochs,
    jobs.c.submitted_at,
    jobs.c.eligible_at,
    jobs.c.begin_at,
    jobs.c.set_id,
    jobs.c.is_preemptible,
    jobs.c.num_preempted,
)


def take_snapshot(connection: Connection, *, lease_s: float, only: int | None = None) -> tuple[Snapshot, ServicePolicy]:
    """All rows that a plan depends on, of the jobs that wait all or `only` one, and the policy in force."""
    these = true() if only is None else jobs.c.id == only
    waiting = select(*_JOB_COLUMNS).where(jobs.c.state.in_(WAITING_JOBS), these)
    kept = preemption.list_kept(connection)
    return _take(connection, connection.execute(waiting).mappings().all(), these, kept, lease_s)


def take_front(
    connection: Connection, *, lease_s: float, length: int | None
) -> tuple[Snapshot, ServicePolicy, frozenset[int]]:
    """As `take_snapshot`, of the first `length` jobs of each line in the queue; and the last ones that were read.

    It leads to the same placements unless the plan went beyond one of these.
    """
    kept = preemption.list_kept(connection)
    front = read_all(connection, _JOB_COLUMNS) if length is None else read_front(connection, _JOB_COLUMNS, length, kept)
    ids = [row["id"] for row in front.rows]
    # What others wait for does no harm.
    these = jobs.c.id.in_(ids) if front.last_ids and len(ids) <= IDS_AT_ONCE else true()
    return *_take(connection, front.rows, these, kept, lease_s), front.last_ids


def _take(
    connection: Connection,
    waiting: Sequence[RowMapping],
    these: ColumnElement[bool],
    kept: Mapping[int, tuple[int, ...]],
    lease_s: float,
) -> tuple[Snapshot, ServicePolicy]:
    now, policy = read_now(connection), read_policy(connection)
    running = list_running(connection)
    history = _History(connection)
    usage = decayed_usage(list_spells(connection, running, now), now, policy.half_life_s)
    after = _dependencies(connection, these)
    set_ids = {row["set_id"] for row in waiting if row["set_id"] is not None}
    snapshot = Snapshot(
        now=now,
        waiting=[_waiting_job(row, after.get(row["id"], ()), kept.get(row["id"], ()), history) for row in waiting],
        workers=offering_workers(connection, lease_s=lease_s),
        running=[_running_job(row, history, now) for row in running],
        usage=usage,
        max_parallel=sets.max_parallel(connection, set_ids),
        over_quota=quotas.list_used_up(connection, policy.scheduling, waiting, now),
    )
    return snapshot, policy


def list_running(connection: Connection) -> list[RowMapping]:
    """The jobs that hold devices, each with its run's progress, and how many it got (`num_held`)."""
    progress = (runs.c.created_at, runs.c.step, runs.c.total_steps, runs.c.steps_per_s, runs.c.progress_at)
    num_held = runs.c.num_devices.label("num_held")
    # By the job's newest run: the states of all runs there ever were are in no index.
    newest = (runs.c.job_id == jobs.c.id) & (runs.c.number == jobs.c.num_runs)
    query = (
        select(*_JOB_COLUMNS, *progress, num_held, runs.c.preempted_for_id)
        .join(runs, newest)
        .where(jobs.c.state.in_(PLACED_JOBS))
    )
    return list(connection.execute(query).mappings())


def held_devices(row: RowMapping) -> float:
    """How many devices a row of `list_running` holds; of one that is shared, its part."""
    return float(row["num_held"] * row["share_percent"] / 100)


def list_spells(connection: Connection, running: Iterable[RowMapping], now: float) -> list[Spell]:
    """All use of devices that counts: of runs that ended, and of those that go on, until now."""
    spells = ledger.list_spells(connection)
    for row in running:
        spells.append(Spell(row["user"], (now - row["created_at"]) * held_devices(row), row["created_at"], now))
    return spells


def offering_workers(connection: Connection, *, lease_s: float) -> list[OfferingWorker]:
    """The workers that take work, with their devices and who holds them. A silent worker takes none."""
    holders: dict[int, int] = {}
    sharers: dict[int, tuple[Sharer, ...]] = {}
    for row in leases.held_devices(connection):
        if row["percent"] == 100:
            holders[row["device_id"]] = row["job_id"]
        else:
            sharer = Sharer(row["job_id"], row["percent"], row["memory_bytes"])
            sharers[row["device_id"]] = (*sharers.get(row["device_id"], ()), sharer)
    drained, quarantined = nodes.list_drained(connection), quarantine.list_quarantined(connection)
    offered: dict[int, list[OfferedDevice]] = {}
    for row in registration.list_devices(connection):
        # With its kind, so that `--gpu-type cuda` means any GPU.
        name = f"{row['kind']} {row['name']}"
        why = quarantined[row["id"]]["reason"] if row["id"] in quarantined else None
        device = OfferedDevice(
            row["id"], holders.get(row["id"]), name, row["memory_bytes"], why, sharers.get(row["id"], ())
        )
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
    """How long finished jobs of a model took, and how much memory; asked once for each kind of job."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, int, int], list[float]] = {}
        self._peaks: dict[tuple[str, int], int | None] = {}

    def usual_duration_s(self, row: RowMapping, num_devices: int) -> float | None:
        """What a job like this one takes on so many devices; None if none has succeeded yet."""
        if row["num_epochs"] is None:
            return None
        key = (row["model"], num_devices, row["share_percent"])
        if key not in self._known:
            self._known[key] = self._seconds_per_epoch(*key)
        return usual_duration_s(self._known[key], row["num_epochs"])

    def memory_bytes(self, row: RowMapping) -> int | None:
        """What a job like this one takes of a device's memory; None if it was never measured."""
        if row["batch_size"] is None:
            return None
        key = (row["model"], row["batch_size"])
        if key not in self._peaks:
            self._peaks[key] = self._peak_memory_bytes(*key)
        peak = self._peaks[key]
        return None if peak is None else round(peak * MEASURED_HEADROOM) + CUDA_CONTEXT_BYTES

    def _peak_memory_bytes(self, model: str, batch_size: int) -> int | None:
        like = (jobs.c.model == model, jobs.c.num_devices == 1, jobs.c.state == JobState.SUCCEEDED)
        latest = select(jobs.c.id, jobs.c.num_runs, jobs.c.batch_size).where(*like)
        latest_jobs = latest.order_by(jobs.c.id.desc()).limit(NUM_MEASURED).subquery()
        last_run = (runs.c.job_id == latest_jobs.c.id) & (runs.c.number == latest_jobs.c.num_runs)
        peak = select(func.max(runs.c.peak_memory_bytes)).join(latest_jobs, last_run)
        found = self._connection.execute(peak.where(latest_jobs.c.batch_size == batch_size)).scalar()
        return None if found is None else int(found)

    def _seconds_per_epoch(self, model: str, num_devices: int, share_percent: int) -> list[float]:
        like = (jobs.c.model == model, jobs.c.num_devices == num_devices, jobs.c.state == JobState.SUCCEEDED)
        # Of those that would have taken fewer, the ones that got all.
        last_run = (runs.c.job_id == jobs.c.id) & (runs.c.number == jobs.c.num_runs)
        took = select(jobs.c.started_at, jobs.c.ended_at, jobs.c.num_epochs).join(runs, last_run)
        query = took.where(*like, jobs.c.num_epochs > 0, jobs.c.started_at.is_not(None))
        query = query.where(jobs.c.share_percent == share_percent, runs.c.num_devices == num_devices)
        rows = self._connection.execute(query.order_by(jobs.c.id.desc()).limit(NUM_REMEMBERED))
        return [(row.ended_at - row.started_at) / row.num_epochs for row in rows]


def _waiting_job(
    row: RowMapping, after: tuple[Dependency, ...], kept: tuple[int, ...], history: _History
) -> WaitingJob:
    limit_s = row["time_limit_s"]
    return WaitingJob(
        id=row["id"],
        num_devices=row["min_devices"],
        most_devices=row["num_devices"],
        priority=row["priority"],
        submitted_at=row["submitted_at"],
        user=row["user"],
        tags=_tags(row),
        selector=_selector(row, history),
        duration_s=history.usual_duration_s(row, row["min_devices"]) if limit_s is None else limit_s,
        after=after,
        begin_at=row["begin_at"],
        eligible_at=row["eligible_at"],
        held=row["state"] == JobState.HELD,
        num_nodes=row["num_nodes"],
        may_spread=bool(row["may_spread"]),
        can_spread=row["strategy"] == "ddp" and row["num_nodes"] == 1 and not row["may_spread"],
        set_id=row["set_id"],
        kept=kept,
    )


def _running_job(row: RowMapping, history: _History, now: float) -> RunningJob:
    progress = RunProgress(row["created_at"], row["step"], row["total_steps"], row["steps_per_s"], row["progress_at"])
    expected = expected_end_at(
        progress, now, time_limit_s=row["time_limit_s"], usual_duration_s=history.usual_duration_s(row, row["num_held"])
    )
    return RunningJob(
        id=row["id"],
        num_devices=row["num_held"],
        user=row["user"],
        tags=_tags(row),
        expected_end_at=expected,
        share_percent=row["share_percent"],
        set_id=row["set_id"],
        priority=row["priority"],
        submitted_at=row["submitted_at"],
        started_at=row["created_at"],
        is_preemptible=bool(row["is_preemptible"]),
        was_preempted=row["num_preempted"] > 0,
        is_leaving=row["preempted_for_id"] is not None,
    )


def _selector(row: RowMapping, history: _History) -> Selector:
    selector, percent = from_json(row["selector_json"]), row["share_percent"]
    if percent == 100:
        return selector
    return for_share(selector, percent, None if selector.memory_bytes else history.memory_bytes(row))


def _tags(row: RowMapping) -> tuple[str, ...]:
    text = row["tags_json"]
    return () if text == "[]" else tuple(json.loads(text))


def _dependencies(connection: Connection, these: ColumnElement[bool]) -> dict[int, tuple[Dependency, ...]]:
    """What each of these jobs in the queue waits for."""
    query = (
        select(dependencies, _OTHERS.c.state)
        .join(jobs, jobs.c.id == dependencies.c.job_id)
        .join(_OTHERS, _OTHERS.c.id == dependencies.c.after_id)
        .where(jobs.c.state.in_(WAITING_JOBS), these)
        .order_by(dependencies.c.job_id, dependencies.c.after_id)
    )
    found: dict[int, tuple[Dependency, ...]] = {}
    for row in connection.execute(query).mappings():
        each = Dependency(row["after_id"], Condition(row["condition"]), _progress(row["state"]))
        found[row["job_id"]] = (*found.get(row["job_id"], ()), each)
    for job_id, each in sets.list_dependencies(connection, these):
        found[job_id] = (*found.get(job_id, ()), each)
    return found


def _progress(state: Any) -> Progress:
    if state == JobState.SUCCEEDED:
        return Progress.SUCCEEDED
    return Progress.FAILED if state in (JobState.FAILED, JobState.CANCELLED) else Progress.PENDING
