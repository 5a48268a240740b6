"""Snapshots: what the scheduler is given, read from the rows as they are.

Every query is bounded by what waits, what runs and what is offered; none looks at finished jobs, but for the last few
of each model that waits, by an index.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from . import offers, standing
from .front import read_all, read_front
from .gpus import CUDA_CONTEXT_BYTES
from .policy import ServicePolicy, read_policy
from .scheduling.estimates import RunProgress, expected_end_at, usual_duration_s
from .scheduling.quotas import OverQuota
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
from .statements import IDS_AT_ONCE, AnyConnection, Row, read_now, rows, value, whole
from .states import PLACED_JOBS, WAITING_JOBS, JobState, WorkerState

NUM_REMEMBERED = 5  # finished jobs of a model and a number of devices that say how long one takes
NUM_MEASURED = 50  # finished jobs of a model on one device, among which those of a batch size say what memory it takes
MEASURED_HEADROOM = 1.1  # what another run may take more of a device's memory

# As much of a job's row as scheduling needs: a spec of thousands of jobs would take longer to read than to plan.
_JOB_COLUMNS = (
    "jobs.id, jobs.state, jobs.user, jobs.model, jobs.num_devices, jobs.num_nodes, jobs.may_spread, jobs.strategy, "
    "jobs.min_devices, jobs.share_percent, jobs.batch_size, jobs.priority, jobs.tags_json, jobs.selector_json, "
    "jobs.time_limit_s, jobs.num_epochs, jobs.submitted_at, jobs.eligible_at, jobs.begin_at, jobs.set_id, "
    "jobs.is_preemptible, jobs.num_preempted"
)


def take_snapshot(
    connection: AnyConnection, *, lease_s: float, only: int | None = None
) -> tuple[Snapshot, ServicePolicy]:
    """All rows that a plan depends on, of the jobs that wait all or `only` one, and the policy in force."""
    if only is None:
        waiting: Sequence[Row] = read_all(connection, _JOB_COLUMNS).rows
    else:
        one = f"SELECT {_JOB_COLUMNS} FROM jobs WHERE state IN :states AND id = :only"  # noqa: S608 (a constant)
        waiting = rows(connection, one, states=WAITING_JOBS, only=only)
    return _take(connection, waiting, None if only is None else (only,), offers.list_kept(connection), lease_s)


def take_front(
    connection: AnyConnection, *, lease_s: float, length: int | None
) -> tuple[Snapshot, ServicePolicy, frozenset[int]]:
    """As `take_snapshot`, of the first `length` jobs of each line in the queue; and the last ones that were read.

    It leads to the same placements unless the plan went beyond one of these.
    """
    kept = offers.list_kept(connection)
    front = read_all(connection, _JOB_COLUMNS) if length is None else read_front(connection, _JOB_COLUMNS, length, kept)
    ids = tuple(row["id"] for row in front.rows)
    # What others wait for does no harm.
    these = ids if front.last_ids and len(ids) <= IDS_AT_ONCE else None
    return *_take(connection, front.rows, these, kept, lease_s), front.last_ids


def _take(
    connection: AnyConnection,
    waiting: Sequence[Row],
    these: Sequence[int] | None,
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
        max_parallel=_max_parallel(connection, set_ids),
        over_quota=_used_up(connection, policy, waiting, now),
    )
    return snapshot, policy


def list_running(connection: AnyConnection) -> list[Row]:
    """The jobs that hold devices, each with its run's progress, and how many it got (`num_held`)."""
    query = (
        f"SELECT {_JOB_COLUMNS}, runs.created_at, runs.step, runs.total_steps, runs.steps_per_s, runs.progress_at, "  # noqa: S608
        "runs.num_devices AS num_held, runs.preempted_for_id "
        # By the job's newest run: the states of all runs there ever were are in no index.
        "FROM jobs JOIN runs ON runs.job_id = jobs.id AND runs.number = jobs.num_runs WHERE jobs.state IN :states"
    )
    return rows(connection, query, states=PLACED_JOBS)


def held_devices(row: Row) -> float:
    """How many devices a row of `list_running` holds; of one that is shared, its part."""
    return float(row["num_held"] * row["share_percent"] / 100)


def list_spells(connection: AnyConnection, running: Iterable[Row], now: float) -> list[Spell]:
    """All use of devices that counts: of runs that ended, and of those that go on, until now."""
    spells = [Spell(**row) for row in rows(connection, "SELECT ledger.user, device_s, begun_at, ended_at FROM ledger")]
    return spells + [
        Spell(row["user"], (now - row["created_at"]) * held_devices(row), row["created_at"], now) for row in running
    ]


def offering_workers(connection: AnyConnection, *, lease_s: float) -> list[OfferingWorker]:
    """The workers that take work, with their devices and who holds them. A silent worker takes none."""
    holders: dict[int, int] = {}
    sharers: dict[int, tuple[Sharer, ...]] = {}
    for row in offers.held_devices(connection):
        if row["percent"] == 100:
            holders[row["device_id"]] = row["job_id"]
        else:
            sharer = Sharer(row["job_id"], row["percent"], row["memory_bytes"])
            sharers[row["device_id"]] = (*sharers.get(row["device_id"], ()), sharer)
    drained, quarantined = offers.list_drained(connection), offers.list_quarantined(connection)
    offered: dict[int, list[OfferedDevice]] = {}
    for row in offers.list_devices(connection):
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
        for row in offers.list_workers(connection)
        if row["state"] == WorkerState.ONLINE and row["silent_s"] <= lease_s
    ]


class _History:
    """How long finished jobs of a model took, and how much memory; asked once for each kind of job."""

    def __init__(self, connection: AnyConnection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, int, int], list[float]] = {}
        self._peaks: dict[tuple[str, int], int | None] = {}

    def usual_duration_s(self, row: Row, num_devices: int) -> float | None:
        """What a job like this one takes on so many devices; None if none has succeeded yet."""
        if row["num_epochs"] is None:
            return None
        key = (row["model"], num_devices, row["share_percent"])
        if key not in self._known:
            self._known[key] = self._seconds_per_epoch(*key)
        return usual_duration_s(self._known[key], row["num_epochs"])

    def memory_bytes(self, row: Row) -> int | None:
        """What a job like this one takes of a device's memory; None if it was never measured."""
        if row["batch_size"] is None:
            return None
        key = (row["model"], row["batch_size"])
        if key not in self._peaks:
            self._peaks[key] = self._peak_memory_bytes(*key)
        peak = self._peaks[key]
        return None if peak is None else round(peak * MEASURED_HEADROOM) + CUDA_CONTEXT_BYTES

    def _peak_memory_bytes(self, model: str, batch_size: int) -> int | None:
        found = value(
            self._connection,
            "SELECT max(runs.peak_memory_bytes) FROM runs JOIN ("
            "SELECT id, num_runs, batch_size FROM jobs WHERE model = :model AND num_devices = 1 AND state = :succeeded "
            "ORDER BY id DESC LIMIT :limit) AS latest ON runs.job_id = latest.id AND runs.number = latest.num_runs "
            "WHERE latest.batch_size = :batch_size",
            model=model,
            succeeded=JobState.SUCCEEDED,
            limit=NUM_MEASURED,
            batch_size=batch_size,
        )
        return None if found is None else int(found)

    def _seconds_per_epoch(self, model: str, num_devices: int, share_percent: int) -> list[float]:
        found = rows(
            self._connection,
            "SELECT jobs.started_at, jobs.ended_at, jobs.num_epochs FROM jobs "
            # Of those that would have taken fewer, the ones that got all.
            "JOIN runs ON runs.job_id = jobs.id AND runs.number = jobs.num_runs AND runs.num_devices = :num_devices "
            "WHERE jobs.model = :model AND jobs.num_devices = :num_devices AND jobs.state = :succeeded "
            "AND jobs.num_epochs > 0 AND jobs.started_at IS NOT NULL AND jobs.share_percent = :share_percent "
            "ORDER BY jobs.id DESC LIMIT :limit",
            model=model,
            num_devices=num_devices,
            succeeded=JobState.SUCCEEDED,
            share_percent=share_percent,
            limit=NUM_REMEMBERED,
        )
        return [(row["ended_at"] - row["started_at"]) / row["num_epochs"] for row in found]


def _waiting_job(row: Row, after: tuple[Dependency, ...], kept: tuple[int, ...], history: _History) -> WaitingJob:
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


def _running_job(row: Row, history: _History, now: float) -> RunningJob:
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


def _selector(row: Row, history: _History) -> Selector:
    selector, percent = from_json(row["selector_json"]), row["share_percent"]
    if percent == 100:
        return selector
    return for_share(selector, percent, None if selector.memory_bytes else history.memory_bytes(row))


def _tags(row: Row) -> tuple[str, ...]:
    text = row["tags_json"]
    return () if text == "[]" else tuple(json.loads(text))


def _dependencies(connection: AnyConnection, these: Sequence[int] | None) -> dict[int, tuple[Dependency, ...]]:
    """What these jobs in the queue wait for; None: all."""
    query = (
        "SELECT dependencies.job_id, dependencies.after_id, dependencies.condition, other.state FROM dependencies "
        "JOIN jobs ON jobs.id = dependencies.job_id JOIN jobs AS other ON other.id = dependencies.after_id "
        "WHERE jobs.state IN :states{} ORDER BY dependencies.job_id, dependencies.after_id"
    )
    some = {} if these is None else {"these": tuple(these)}
    found: dict[int, tuple[Dependency, ...]] = {}
    for row in rows(connection, query.format(" AND jobs.id IN :these" if some else ""), states=WAITING_JOBS, **some):
        each = Dependency(row["after_id"], Condition(row["condition"]), _progress(row["state"]))
        found[row["job_id"]] = (*found.get(row["job_id"], ()), each)
    for job_id, each in standing.list_dependencies(connection, these):
        found[job_id] = (*found.get(job_id, ()), each)
    return found


def _max_parallel(connection: AnyConnection, set_ids: Collection[int]) -> dict[int, int]:
    """How many jobs of these sets may run at a time, where that is limited."""
    if not set_ids:
        return {}
    query = "SELECT id, max_parallel FROM sets WHERE max_parallel IS NOT NULL AND id IN :ids"
    return {row["id"]: row["max_parallel"] for row in rows(connection, query, ids=tuple(set_ids))}


def _used_up(
    connection: AnyConnection, policy: ServicePolicy, waiting: Iterable[Row], now: float
) -> Mapping[tuple[str, str], OverQuota]:
    """The quotas that are used up, of those whose jobs wait."""
    if not policy.scheduling.has_quotas:
        return {}
    from . import quotas

    return quotas.list_used_up(whole(connection), policy.scheduling, waiting, now)


def _progress(state: Any) -> Progress:
    if state == JobState.SUCCEEDED:
        return Progress.SUCCEEDED
    return Progress.FAILED if state in (JobState.FAILED, JobState.CANCELLED) else Progress.PENDING
