"""Rows to begin a test with: a job, a worker with CPU stand-ins, a run that is starting or running."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import RowMapping, select, update

from dljobs.service import ends, jobs, new_jobs, offers, registration, runs, sets
from dljobs.service.axes import Axis
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.halving import Rule
from dljobs.service.names import Target, member_ids
from dljobs.service.new_jobs import NewJob
from dljobs.service.process_mark import ProcessMark
from dljobs.service.registration import DeviceInfo, Registration, WorkerInfo
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.sets import Member, NewSet
from dljobs.service.spec import JobSpec
from dljobs.service.states import JobState, RunState
from dljobs.service.tables import leases

LEASE_S = 60.0


def new_job(num_devices: int = 1, **fields: Any) -> NewJob:
    """A job of the catalog's smallest model."""
    spec = JobSpec(
        model="lenet",
        data="digits",
        loss="cross_entropy",
        metric="accuracy",
        goal="max",
        strategy="ddp" if num_devices > 1 else "single",
        num_devices=num_devices,
    )
    return NewJob(**{"spec": spec, "user": "ada", "name": "lenet", **fields})


def submit(database: Database, num_devices: int = 1, **fields: Any) -> int:
    """Insert a job; returns its id."""
    with database.write() as connection:
        return new_jobs.insert_job(connection, new_job(num_devices, **fields))[0]


def new_set(
    num_jobs: int, *, first_index: int = 0, max_parallel: int | None = None, halving: Rule | None = None, **fields: Any
) -> NewSet:
    """An array of seeds."""
    job, seeds = new_job(**fields), tuple(range(first_index, first_index + num_jobs))
    specs = [replace(job.spec, training=replace(job.spec.training, seed=seed)) for seed in seeds]
    members = [Member(seed, {"seed": seed}, replace(job, spec=spec)) for seed, spec in zip(seeds, specs, strict=True)]
    return NewSet(members, [Axis("seed", seeds)], max_parallel, halving)


def submit_set(database: Database, num_jobs: int, **fields: Any) -> tuple[int, list[int]]:
    """Insert a set; returns its id and those of its jobs."""
    with database.write() as connection:
        set_id, _ = sets.insert_set(connection, new_set(num_jobs, **fields))
        return set_id, member_ids(connection, [Target(set_id, is_set=True)])


def worker_info(name: str = "w1", num_devices: int = 4, **fields: Any) -> WorkerInfo:
    """A worker on node n1 whose devices bear its name."""
    devices = [
        DeviceInfo(uuid=f"{name}-cpu-{position}", kind="cpu", name="CPU", position=position, memory_bytes=None)
        for position in range(num_devices)
    ]
    values = {"name": name, "node": "n1", "process": ProcessMark(1000, "born"), "versions": {}, "devices": devices}
    return WorkerInfo(**{**values, **fields})


def add_worker(
    database: Database, name: str = "w1", num_devices: int = 4, *, is_alive: bool = True, **fields: Any
) -> Registration:
    """Register a worker; `is_alive` is what the system says of every worker process on this node."""
    with database.write() as connection:
        return registration.register(
            connection,
            worker_info(name, num_devices, **fields),
            stale_after_s=LEASE_S,
            is_alive=lambda _process: is_alive,
        )


def place(database: Database, num_devices: int = 1, **fields: Any) -> tuple[int, RunKey]:
    """A job whose first run has just been placed on worker w1; returns the job's id and the run's key."""
    with database.read() as connection:
        known = {row["name"] for row in offers.list_workers(connection)}
    if "w1" not in known:
        add_worker(database)
    job_id = submit(database, num_devices, **fields)
    return job_id, place_again(database, job_id)


def place_again(database: Database, job_id: int) -> RunKey:
    """Place a job that is in the queue and eligible."""
    make_eligible(database, job_id)
    keys = [placed.key for placed in dispatch(database, lease_s=LEASE_S)]
    with database.read() as connection:
        numbers = {key.run_id: runs.get_run(connection, key.run_id)["job_id"] for key in keys}
    return next(key for key in keys if numbers[key.run_id] == job_id)


def start(database: Database, num_devices: int = 1, **fields: Any) -> tuple[int, RunKey]:
    """As `place`, with the run claimed and running."""
    job_id, key = place(database, num_devices, **fields)
    run_it(database, key)
    return job_id, key


def run_it(database: Database, key: RunKey) -> None:
    """Claim a placed run and let its ranks start."""
    with database.write() as connection:
        assert runs.claim(connection, key, runs.get_run(connection, key.run_id)["worker_id"])
        runs.mark_running(connection, key, actor="w1")


def end(database: Database, key: RunKey, outcome: Outcome) -> JobState:
    """End a run as its worker does."""
    with database.write() as connection:
        return ends.end_run(connection, key.run_id, outcome, actor="w1", token=key.token)


def make_eligible(database: Database, job_id: int) -> None:
    """Let the time of a back-off pass."""
    with database.write() as connection:
        connection.execute(update(jobs.jobs).where(jobs.jobs.c.id == job_id).values(eligible_at=None))


def let_lease_run_out(database: Database, key: RunKey) -> None:
    """Let the time of a run's lease pass."""
    with database.write() as connection:
        late = update(leases).where(leases.c.run_id == key.run_id)
        connection.execute(late.values(expires_at=now() - 1.0))


def job_row(database: Database, job_id: int) -> RowMapping:
    """The job's row as it is now."""
    with database.read() as connection:
        return jobs.get_job(connection, job_id)


def run_row(database: Database, run_id: int) -> RowMapping:
    """The run's row as it is now."""
    with database.read() as connection:
        return runs.get_run(connection, run_id)


def states(database: Database, key: RunKey) -> tuple[JobState, RunState]:
    """Where the job and its run stand."""
    run = run_row(database, key.run_id)
    return JobState(job_row(database, run["job_id"])["state"]), RunState(run["state"])


def live_leases(database: Database, key: RunKey) -> int:
    """How many devices the run holds."""
    with database.read() as connection:
        held = select(leases.c.id).where(leases.c.run_id == key.run_id, leases.c.released_at.is_(None))
        return len(connection.execute(held).all())
