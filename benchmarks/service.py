"""A whole service to measure: real Redis, real SQLite and, if asked for, a warm worker, in a temp folder.

It has the settings that users have by default: nothing is tuned for the benchmarks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from select import select as wait_for_input
from typing import Any

from sqlalchemy import RowMapping, Select, func, insert, select

from dljobs.service import jobs, logs, metrics, new_jobs, runs, schema
from dljobs.service.clock import read_now
from dljobs.service.database import Database
from dljobs.service.doorbell import Doorbell
from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.redis_connection import broker_url
from dljobs.service.settings import Settings, load_settings
from dljobs.service.spec import JobSpec
from dljobs.service.states import ENDED_JOBS, PLACED_JOBS, WAITING_JOBS, JobState
from dljobs.service.submission import Request, enqueue, prepare
from dljobs.service.tables import jobs as job_table
from dljobs.service.worker_process import COMMAND, WorkerProcess

from .benchmark import BenchmarkError
from .processes import PATIENCE_S, end_all, environment_with, family_of, last_lines

READY_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 300.0
# Rare enough not to take the ranks' time on a small machine.
_POLL_S = 0.05
_DRAIN_POLL_S = 0.02
# A rank that does nothing: the check of `doctor --nodes`, on one device, where there is nobody to reduce with.
_NOTHING = JobSpec(
    model="nothing", data="nothing", loss="", metric="", goal="min", strategy="single", num_devices=1, kind="all-reduce"
)
# Keeps the worker's log out of our output; its options follow as the last word.
_WITH_LOG = ("/bin/sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh")


@dataclass
class Service:
    """What `dljobs up` runs on one machine."""

    settings: Settings
    database: Database
    redis: EmbeddedRedis
    doorbell: Doorbell = field(init=False)

    def __post_init__(self) -> None:
        self.doorbell = Doorbell(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this service has in its environment."""
        return environment_with(**self.settings.to_environment())

    @property
    def broker_url(self) -> str:
        """The Redis as Celery is told it; it holds a password."""
        return broker_url(self.settings)

    @property
    def redis_version(self) -> str:
        client = self.redis.client()
        try:
            return str(client.info("server")["redis_version"])
        finally:
            client.close()

    def read_clock(self) -> float:
        """The database's time."""
        with self.database.read() as connection:
            return read_now(connection)

    def submit(self, request: Request) -> int:
        """Submit a job through the Python API; returns its id."""
        new = prepare(request, user=self.settings.user)
        return enqueue(self.database, self.doorbell, new).job_id

    def wait_for_success(self, job_id: int, timeout_s: float = 120.0) -> RowMapping:
        """Wait for the end of a job's only run, and return the run.

        Raises:
            BenchmarkError: the job did not succeed, or not at the first try, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        while (job := self._job(job_id))["state"] not in ENDED_JOBS:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"job {job_id} is still {job['state']} after {timeout_s:g} s: {job['reason']}")
            time.sleep(_POLL_S)
        if job["state"] != JobState.SUCCEEDED or job["num_runs"] != 1:
            raise BenchmarkError(f"job {job_id} is {job['state']} after {job['num_runs']} runs: {job['reason']}")
        with self.database.read() as connection:
            return runs.list_runs(connection, [job_id])[0]

    def drain(self, number: int) -> float:
        """Seconds from the ring to the end of the last of so many jobs that do nothing, which wait already.

        Raises:
            BenchmarkError: one did not succeed, or not in time.
        """
        with self.database.write() as connection:
            last = connection.execute(select(func.coalesce(func.max(job_table.c.id), 0))).scalar_one()
            row = new_jobs.job_values(new_jobs.NewJob(_NOTHING, user="benchmark", name="nothing"), read_now(connection))
            connection.execute(insert(job_table), [row] * number)
        begin = time.monotonic()
        self.doorbell.ring_schedule()
        # By the states that an index finds: looking must cost the same however many have ended.
        left = select(job_table.c.id).where(job_table.c.state.in_((*WAITING_JOBS, *PLACED_JOBS))).limit(1)
        while self._first(left) is not None:
            if time.monotonic() > begin + DRAIN_TIMEOUT_S:
                raise BenchmarkError(f"{number} jobs were not done after {DRAIN_TIMEOUT_S:g} s")
            time.sleep(_DRAIN_POLL_S)
        seconds = time.monotonic() - begin
        is_bad = (job_table.c.id > last, job_table.c.state != JobState.SUCCEEDED)
        if (reason := self._first(select(job_table.c.reason).where(*is_bad).limit(1))) is not None:
            raise BenchmarkError(f"a job did not succeed: {reason}")
        return seconds

    def _first(self, query: Select[tuple[Any]]) -> Any:
        with self.database.read() as connection:
            return connection.execute(query).scalar()

    def read_first_line_at(self, job_id: int) -> float:
        """When the first line of a rank of the job came into the log, by the database's clock."""
        with self.database.read() as connection:
            run_ids = [run["id"] for run in runs.list_runs(connection, [job_id])]
            return next(float(line["at"]) for line in logs.list_lines(connection, run_ids) if line["rank"] is not None)

    def read_rank_clock(self, run_id: int, step: int) -> float:
        """When rank 0 recorded the loss of a step, by its own clock: `time.time()` on this machine."""
        with self.database.read() as connection:
            points = metrics.list_points(connection, [run_id], name="loss")
        return next(float(point["at"]) for point in points if point["step"] == step and point["split"] == "train")

    def _job(self, job_id: int) -> RowMapping:
        with self.database.read() as connection:
            return jobs.get_job(connection, job_id)


@contextlib.contextmanager
def running_service(home: Path, *, cpu_devices: int = 0, database_url: str = "") -> Iterator[Service]:
    """A service in `home`, stopped with the block; with `cpu_devices`, a worker that is ready."""
    settings = load_settings({"home": str(home), "user": "benchmark", "database_url": database_url}, environ={})
    schema.upgrade(settings)
    with contextlib.ExitStack() as stack:
        redis = EmbeddedRedis(home)
        stack.callback(redis.stop)
        redis.start()
        database = schema.open_checked(settings)
        stack.callback(database.close)
        if cpu_devices:
            stack.enter_context(_running_worker(settings, cpu_devices))
        yield Service(settings, database, redis)


@contextlib.contextmanager
def _running_worker(settings: Settings, cpu_devices: int) -> Iterator[None]:
    log = settings.home / "worker.log"
    options = {"gpus": None, "cpu_devices": cpu_devices, "name": "benchmark"}
    worker = WorkerProcess(settings, options, (*_WITH_LOG, str(log), *COMMAND))
    try:
        _await_ready(worker, log)
        yield
    finally:
        family = family_of(worker.pid)
        if worker.exit_code() is None:
            worker.terminate()
            worker.terminate()  # a second time: at once
        deadline = time.monotonic() + PATIENCE_S
        while worker.exit_code() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        worker.close()
        end_all(family)
        worker.exit_code()  # takes note of the end, so that no zombie is left


def _await_ready(worker: WorkerProcess, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not worker.read_ready():
        if worker.exit_code() is not None or time.monotonic() > deadline:
            words = last_lines(log.read_text(errors="replace")) if log.exists() else ""
            raise BenchmarkError(f"the worker did not get ready:\n{words}")
        wait_for_input(worker.descriptors, [], [], 0.5)
