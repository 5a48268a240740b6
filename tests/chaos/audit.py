"""The auditor: what has to be true after any number of faults, read from the database and the process table."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
from sqlalchemy import Connection, RowMapping, func, select

from dljobs.errors import DljobsError
from dljobs.service.artifacts import ArtifactStore
from dljobs.service.garbage import collect_garbage
from dljobs.service.states import LIVE_RUNS
from dljobs.service.tables import artifact_blobs, artifacts, blobs, devices, jobs, leases, logs, metrics, runs

from .site import Site
from .workload import KINDS, digest_of


@dataclass(frozen=True)
class Figures:
    """What the database tells of the whole time."""

    num_jobs: int
    num_runs: int
    lost_steps: int  # that were trained more than once
    total_steps: int  # of all jobs that succeeded


def audit_records(site: Site, digests: dict[str, str]) -> list[str]:
    """What is wrong in the database; the workers may still run."""
    collect_garbage(site.cluster.database)
    with site.cluster.database.read() as connection:
        found = [
            *_judge_jobs(connection, digests),
            *_judge_leases(connection),
            *_judge_reports(connection),
            *_judge_store(connection),
        ]
        whole = connection.execute(select(artifacts.c.id).where(artifacts.c.state == "complete")).scalars().all()
    store = ArtifactStore(site.cluster.database)
    for artifact_id in whole:
        try:
            store.fetch(artifact_id, site.folder / "fetched")
        except DljobsError as error:
            found.append(f"artifact {artifact_id}: {error}")
    return found


def audit_leftovers(site: Site) -> list[str]:
    """What is still there once all workers have ended."""
    _gone, alive = psutil.wait_procs(site.find_processes(), timeout=5)  # some are just ending
    found = [f"process left: {process}" for process in alive]
    places = (site.cluster.settings.home / "runs", site.cluster.settings.home / "workers", site.temporary)
    left = [path for place in places if place.exists() for path in place.iterdir()]
    # A cache of torch's own, which it makes wherever it runs.
    return found + [f"file left: {path}" for path in left if not path.name.startswith("torchinductor")]


def measure(connection: Connection) -> Figures:
    """Count what was done, and what was done again."""
    lost = total = 0
    resumed = _resumed_steps(connection)
    for of_job in _runs_by_job(connection).values():
        for run, after in itertools.pairwise(of_job):
            lost += max(0, (run["step"] or 0) - resumed.get(after["id"], 0))
        total += of_job[-1]["step"] or 0 if of_job[-1]["state"] == "succeeded" else 0
    num_jobs = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    num_runs = connection.execute(select(func.count()).select_from(runs)).scalar_one()
    return Figures(num_jobs, num_runs, lost, total)


def _judge_jobs(connection: Connection, digests: dict[str, str]) -> Iterator[str]:
    """Each has ended as it had to, in its last run and in no other."""
    of_job = _runs_by_job(connection)
    for job in connection.execute(select(jobs)).mappings():
        kind, about = KINDS[job["name"]], f"job {job['id']} ({job['name']})"
        if (job["state"], job["failure_class"]) not in kind.ends:
            yield f"{about} is {job['state']} ({job['failure_class']}): {job['reason']}"
            continue
        if job["state"] == "succeeded" and digest_of(job) != digests[job["name"]]:
            yield f"{about} has other weights than the undisturbed"
        states = [run["state"] for run in of_job.get(job["id"], [])]
        # A job that waits, for the first time or again, is cancelled without a run of its own.
        final = [] if job["state"] == "cancelled" and "cancelled" not in states else [job["state"]]
        if [state for state in states if state != "requeued"] != final or states[-1:] != (final or states[-1:]):
            yield f"{about}: the states of its runs are {states}"
        if job["num_runs"] != len(states):
            yield f"{about} counts {job['num_runs']} runs and has {len(states)}"


def _judge_leases(connection: Connection) -> Iterator[str]:
    """Nothing is held, and no device was ever held twice."""
    live = connection.execute(select(runs.c.id).where(runs.c.state.in_(LIVE_RUNS))).scalars().all()
    yield from (f"run {run_id} is live" for run_id in live)
    counted = select(devices.c.uuid).where(devices.c.leased_percent != 0)
    yield from (f"device {uuid} is counted as leased" for uuid in connection.execute(counted).scalars())
    held = connection.execute(select(leases).order_by(leases.c.device_id, leases.c.acquired_at)).mappings().all()
    yield from (f"lease {lease['id']} was never released" for lease in held if lease["released_at"] is None)
    for earlier, later in itertools.pairwise(held):
        if earlier["device_id"] == later["device_id"] and (earlier["released_at"] or 0) > later["acquired_at"]:
            yield f"device {later['device_id']} had leases {earlier['id']} and {later['id']} at once"


def _judge_reports(connection: Connection) -> Iterator[str]:
    """Of each run every step has one loss, without a gap, and its lines are in their order."""
    point = (metrics.c.run_id, metrics.c.step)
    losses = select(*point).where(metrics.c.split == "train", metrics.c.name == "loss").order_by(metrics.c.id)
    steps: defaultdict[int, list[int]] = defaultdict(list)
    for row in connection.execute(losses):
        steps[row.run_id].append(row.step)
    for run_id, seen in steps.items():
        if seen != list(range(seen[0], seen[0] + len(seen))):
            yield f"run {run_id} has losses of the steps {seen}"
    lines: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    said = select(logs.c.run_id, logs.c.rank, logs.c.line).where(logs.c.line.like("batch %")).order_by(logs.c.id)
    for row in connection.execute(said):
        lines[row.run_id, row.rank].append(int(row.line.split()[1]))
    for (run_id, rank), numbers in lines.items():
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            yield f"run {run_id}, rank {rank}: the log has the batches {numbers}"


def _judge_store(connection: Connection) -> Iterator[str]:
    """No upload is half done, and no blob without an artifact."""
    half = connection.execute(select(artifacts.c.id).where(artifacts.c.state != "complete")).scalars()
    yield from (f"artifact {artifact_id} is half stored" for artifact_id in half)
    held = select(artifact_blobs.c.digest)
    num = connection.execute(select(func.count()).select_from(blobs).where(blobs.c.digest.not_in(held))).scalar_one()
    if num:
        yield f"{num} blobs belong to no artifact"


def _runs_by_job(connection: Connection) -> dict[int, list[RowMapping]]:
    found: defaultdict[int, list[RowMapping]] = defaultdict(list)
    for run in connection.execute(select(runs).order_by(runs.c.job_id, runs.c.number)).mappings():
        found[run["job_id"]].append(run)
    return found


def _resumed_steps(connection: Connection) -> dict[int, int]:
    """Of each run that resumed: the step."""
    said = select(logs.c.run_id, logs.c.line).where(logs.c.line.like("resuming from step-%"))
    return {row.run_id: int(re.findall(r"step-(\d+)", row.line)[0]) for row in connection.execute(said)}
