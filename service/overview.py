"""The overview: what `dljobs status` shows, of jobs, sets, workers and devices at one moment.

It is the command that is called most, so all that it asks is text (`statements.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import offers, views
from .statements import AnyConnection, AnyDatabase, Row, in_batches, read_now, rows, value
from .states import ENDED_JOBS, PLACED_JOBS, WAITING_JOBS, WorkerState
from .views import Json

if TYPE_CHECKING:
    from .planned import Planned

EVERYTHING = 2**31 - 1


def status(database: AnyDatabase, *, lease_s: float, limit: int | None, expand: bool = False) -> Json:
    """The queue, the recent jobs, and the devices: what runs, what waits and why, what has ended, newest first.

    Args:
        limit: at most so many of those that wait and of those that ended; None shows all.
        expand: show the jobs of sets, too, which have one line together otherwise.
    """
    most = EVERYTHING if limit is None else limit
    with database.read() as connection:
        moment = read_now(connection)
        placed = _list_placed(connection, with_sets=expand)
        ended = list_ended(connection, most, with_sets=expand)
        live = _newest_runs(connection, [job["id"] for job in placed])
        planned = _plan(connection, lease_s)
        order = planned.plan.order if planned else []
        queue = [job.id for job in order if expand or job.set_id is None]
        waiting = _list_jobs(connection, queue[:most])  # of tens of thousands only what is shown
        offered = workers_in(connection, lease_s=lease_s)
        sets = _sets(connection, most, planned)
    shown = [*placed, *waiting, *ended]
    return {
        "jobs": [
            views.job_view(job, moment=moment, run=live.get(job["id"]), prospect=prospect_of(planned, job))
            for job in shown
        ],
        "sets": sets,
        "num_waiting": len(order),
        "num_not_shown": len(queue) - len(waiting),
        **_capacity(offered),
    }


def list_ended(connection: AnyConnection, limit: int, *, with_sets: bool = True) -> list[Row]:
    """The jobs that ended, the newest first. Each state is a range of an index of its own, as in `pages.py`."""
    alone = "" if with_sets else " AND set_id IS NULL"
    of_state = "SELECT id FROM (SELECT id FROM jobs WHERE state = :{}{} ORDER BY id DESC LIMIT :limit) AS of_{}"
    newest = " UNION ALL ".join(of_state.format(state, alone, state) for state in ENDED_JOBS)
    return rows(
        connection,
        f"SELECT jobs.* FROM jobs JOIN (SELECT id FROM ({newest}) AS ended ORDER BY id DESC LIMIT :limit) AS newest "  # noqa: S608
        "ON newest.id = jobs.id ORDER BY jobs.id DESC",
        limit=limit,
        **{str(state): state for state in ENDED_JOBS},
    )


def workers_in(connection: AnyConnection, *, lease_s: float) -> list[Json]:
    """As `list_workers`."""
    held: dict[int, list[Mapping[Any, Any]]] = {}
    for lease in offers.held_devices(connection):
        held.setdefault(lease["device_id"], []).append(lease)
    quarantined = offers.list_quarantined(connection)
    devices: dict[int, list[Json]] = {}
    for row in offers.list_devices(connection):
        view = views.device_view(row, held.get(row["id"], ()), quarantined.get(row["id"]))
        devices.setdefault(row["worker_id"], []).append(view)
    return [
        views.worker_view(row, devices.get(row["id"], ()), lease_s=lease_s) for row in offers.list_workers(connection)
    ]


def prospect_of(planned: Planned | None, job: Mapping[Any, Any]) -> views.Prospect | None:
    """Why a job waits and for how long; None for one that does not wait."""
    if planned is None or job["state"] not in WAITING_JOBS:
        return None
    job_id = job["id"]
    return views.Prospect(planned.reasons(job_id), planned.place(job_id), planned.expected_start_at(job_id))


def _list_placed(connection: AnyConnection, *, with_sets: bool) -> list[Row]:
    alone = "" if with_sets else " AND set_id IS NULL"
    query = f"SELECT * FROM jobs WHERE state IN :states{alone} ORDER BY priority DESC, submitted_at, id"  # noqa: S608
    return rows(connection, query, states=PLACED_JOBS)


def _list_jobs(connection: AnyConnection, job_ids: Sequence[int]) -> list[Row]:
    """The rows of these jobs, in their order."""
    found: dict[int, Row] = {}
    for ids in in_batches(job_ids):
        found |= {row["id"]: row for row in rows(connection, "SELECT * FROM jobs WHERE id IN :ids", ids=tuple(ids))}
    return [found[job_id] for job_id in job_ids]


def _newest_runs(connection: AnyConnection, job_ids: Sequence[int]) -> dict[int, Row]:
    """The newest run of each of these jobs, by job."""
    query = "SELECT runs.* FROM runs JOIN jobs ON jobs.id = runs.job_id AND jobs.num_runs = runs.number"
    found: dict[int, Row] = {}
    for ids in in_batches(job_ids):
        found |= {row["job_id"]: row for row in rows(connection, f"{query} WHERE jobs.id IN :ids", ids=tuple(ids))}
    return found


def _plan(connection: AnyConnection, lease_s: float) -> Planned | None:
    """The plan, if any job waits."""
    waiting = "SELECT id FROM jobs WHERE state IN :states LIMIT 1"
    if value(connection, waiting, states=WAITING_JOBS) is None:
        return None
    from .planned import make_plan

    return make_plan(connection, lease_s=lease_s)


def _sets(connection: AnyConnection, most: int, planned: Planned | None) -> list[Json]:
    if value(connection, "SELECT id FROM sets LIMIT 1") is None:
        return []
    from .standing import first_waiting, sets_in

    first = first_waiting(planned.plan.order) if planned else {}
    reasons = {set_id: planned.reasons(job_id) for set_id, job_id in first.items() if planned}
    return sets_in(connection, most, reasons)


def _capacity(workers: Sequence[Json]) -> Json:
    """The devices that take work, and how the workers are."""
    present = [worker for worker in workers if worker["state"] != WorkerState.OFFLINE]
    taking = [worker for worker in present if worker["state"] == WorkerState.ONLINE and not worker["is_silent"]]
    devices = [device for worker in taking for device in worker["devices"]]
    return {
        "devices": {
            "total": len(devices),
            "free": sum(map(views.is_free, devices)),
            "quarantined": sum(device["quarantine"] is not None for device in devices),
        },
        "workers": {
            "online": len(taking),
            "draining": sum(worker["state"] == WorkerState.DRAINING for worker in present),
            "silent": [
                {"name": worker["name"], "silent_s": worker["silent_s"]} for worker in present if worker["is_silent"]
            ],
        },
    }
