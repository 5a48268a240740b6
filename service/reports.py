"""Reports: what the reading commands tell, gathered in one transaction each and shaped by `views.py`.

It owns which rows make up an answer; each query stands with its noun. Nothing here writes. What only some answers need
(the scheduler, sets, artifacts) is imported by them: importing all of it would take a third of a `dljobs status`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from dljobs.errors import NotFound

from . import events, jobs, leases, offers, pages, runs, views
from .clock import read_now
from .database import Database, open_database
from .overview import prospect_of, workers_in
from .parts import list_parts
from .planned import make_plan
from .schema import HEAD, current_revision
from .settings import Settings
from .states import ENDED_JOBS, WAITING_JOBS, WorkerState
from .views import Json

if TYPE_CHECKING:
    pass

EVERYTHING = 2**31 - 1


def list_newest(database: Database, **wanted: Any) -> list[Json]:
    """A page of jobs, the newest first, as they stand in their rows; arguments as `pages.list_newest`."""
    with database.read() as connection:
        moment = read_now(connection)
        return [views.job_view(row, moment=moment) for row in pages.list_newest(connection, **wanted)]


def list_best(database: Database, metric: str, **wanted: Any) -> list[Json]:
    """A page of the jobs that did best, each with its `value`; arguments as `pages.list_best`."""
    with database.read() as connection:
        moment = read_now(connection)
        found = pages.list_best(connection, metric, **wanted)
        return [{**views.job_view(row, moment=moment), "value": row["value"]} for row in found]


def list_jobs(database: Database, job_ids: Sequence[int], *, lease_s: float) -> list[Json]:
    """These jobs, with progress and reasons."""
    with database.read() as connection:
        return jobs_in(connection, job_ids, lease_s=lease_s)


def jobs_in(connection: Connection, job_ids: Sequence[int], *, lease_s: float) -> list[Json]:
    """As `list_jobs`."""
    rows, moment = jobs.get_jobs(connection, job_ids), read_now(connection)
    going_on = [row["id"] for row in rows if row["state"] not in ENDED_JOBS]
    latest = runs.latest_runs(connection, going_on)
    planned = make_plan(connection, lease_s=lease_s) if any(row["state"] in WAITING_JOBS for row in rows) else None
    found = []
    for row in rows:
        prospect = prospect_of(planned, row) if planned else None
        found.append(views.job_view(row, moment=moment, run=latest.get(row["id"]), prospect=prospect))
    return found


def job_in(connection: Connection, job_id: int, *, lease_s: float) -> Json:
    """One Job as `status` shows it."""
    return jobs_in(connection, [job_id], lease_s=lease_s)[0]


def job_details(database: Database, job_id: int, *, lease_s: float) -> Json:
    """A job with its spec and the files it brought, its runs and their placement, its artifacts, their evaluations."""
    from . import artifacts, continuation, evaluations, verifications
    from .source_files import describe_sources
    from .spec import JobSpec

    with database.read() as connection:
        job = jobs.get_job(connection, job_id)
        spec = json.loads(job["spec_json"])
        return {
            **job_in(connection, job_id, lease_s=lease_s),
            "spec": spec,
            "runs": [run_in(connection, row, spec) for row in runs.list_runs(connection, [job_id])],
            "artifacts": [views.artifact_view(row) for row in artifacts.list_artifacts(connection, job_id)],
            "evaluations": [views.evaluation_view(row) for row in evaluations.list_evaluations(connection, job_id)],
            "verifications": [
                views.verification_view(row) for row in verifications.list_verifications(connection, job_id)
            ],
            **continuation.lineage(connection, job),
            "origin": _origin(connection, spec.get("artifact_id")),
            "sources": describe_sources(connection, JobSpec.from_json(job["spec_json"])),
        }


def advice_for(database: Database, job_ids: Sequence[int]) -> dict[int, str]:
    """What the errors of these jobs' last runs say would help; a job is missing where they say nothing."""
    with database.read() as connection:
        latest = runs.latest_runs(connection, job_ids)
    hints = {job_id: json.loads(run["error_json"] or "{}").get("hint") for job_id, run in latest.items()}
    return {job_id: str(hint) for job_id, hint in hints.items() if hint}


def run_in(connection: Connection, run: Mapping[Any, Any], spec: Mapping[str, Any]) -> Json:
    """One Run with its placement."""
    return views.run_view(run, list_parts(connection, run["id"]), leases.placement(connection, run["id"]), spec)


def _origin(connection: Connection, artifact_id: int | None) -> Json | None:
    """Where the weights that an evaluation loads came from; null for training, or if they are gone."""
    if artifact_id is None:
        return None
    from . import artifacts

    try:
        artifact = artifacts.get_artifact(connection, artifact_id)
    except NotFound:
        return {"artifact_id": artifact_id, "job_id": None, "run": None, "name": None, "epoch": None}
    run = runs.get_run(connection, artifact["run_id"])
    return {
        "artifact_id": artifact_id,
        "job_id": run["job_id"],
        "run": run["number"],
        "name": artifact["name"],
        "epoch": artifact["epoch"],
    }


def list_workers(database: Database, *, lease_s: float) -> list[Json]:
    """All workers with the devices they offer and who holds them."""
    with database.read() as connection:
        return workers_in(connection, lease_s=lease_s)


def list_devices(database: Database, *, lease_s: float) -> list[Json]:
    """The devices that workers offer, each with its node and worker."""
    return [
        {"node": worker["node"], "worker": worker["name"], **device}
        for worker in list_workers(database, lease_s=lease_s)
        for device in worker["devices"]
    ]


def list_nodes(database: Database, *, lease_s: float) -> list[Json]:
    """The nodes that have workers, or are drained, with what they offer."""
    with database.read() as connection:
        workers = workers_in(connection, lease_s=lease_s)
        drained = offers.list_drained(connection)
    present = [worker for worker in workers if worker["state"] != WorkerState.OFFLINE]
    names = sorted({worker["node"] for worker in present} | set(drained))
    return [
        views.node_view(name, [worker for worker in present if worker["node"] == name], drained.get(name))
        for name in names
    ]


def list_artifacts(database: Database, job_id: int, *, kind: str | None = None) -> list[Json]:
    """The complete artifacts of a job, oldest first."""
    from . import artifacts

    with database.read() as connection:
        return [views.artifact_view(row) for row in artifacts.list_artifacts(connection, job_id, kind=kind)]


def collect_garbage(database: Database, *, dry_run: bool) -> Json:
    """Delete what is of no use in the artifact store, or only look; what it was, and what the store holds then.

    Of jobs that are over, whatever their retention does not keep is of no use, either.
    """
    from . import garbage

    with database.read() as connection:
        unkept = garbage.list_unkept(connection)
        found = garbage.find_garbage(connection, unkept)
    if not dry_run:
        found = garbage.collect_garbage(database, unkept)
    with database.read() as connection:
        stock = garbage.take_stock(connection)
    return {
        "dry_run": dry_run,
        "num_artifacts": len(found.unkept),
        "num_uploads": len(found.uploads),
        "num_blobs": len(found.blobs),
        "size_bytes": found.size_bytes,
        "stock": asdict(stock),
    }


def list_verifications(database: Database, job_id: int) -> list[Json]:
    """The replays of a job's training, oldest first."""
    from . import verifications

    with database.read() as connection:
        return [views.verification_view(row) for row in verifications.list_verifications(connection, job_id)]


def list_events(database: Database, *, job_id: int | None, after_id: int = 0, limit: int) -> list[Json]:
    """The newest events, oldest first."""
    with database.read() as connection:
        rows = events.list_events(connection, job_id=job_id, after_id=after_id, limit=limit)
    return [views.event_view(row) for row in rows]


def schema(settings: Settings) -> Json:
    """The revision that the database's tables have, null for none, and the one that this dljobs needs."""
    database = open_database(settings)
    try:
        current = current_revision(database)
    finally:
        database.close()
    return {"current": current, "needed": HEAD, "is_current": current == HEAD}
