"""A whole service for tests: real Redis, a real database, real worker processes; started and stopped by the test.

`Cluster` is used by integration and e2e tests. It ends only what it started, and fails the test if anything survives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import RowMapping

from dljobs.service import artifacts, jobs, logs, new_jobs, offers, runs, schema
from dljobs.service.database import Database
from dljobs.service.doorbell import Doorbell
from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.settings import Settings, load_settings
from dljobs.service.states import ENDED_JOBS
from dljobs.service.submission import Request, enqueue, prepare
from dljobs.service.worker_process import WorkerProcess
from tests.waiting import wait_until

# Short, so that a test sees expiry and sweep; still a beat well under the lease.
QUICK = {"lease_s": 6.0, "heartbeat_s": 1.0, "sweep_s": 1.0, "grace_s": 10.0}
READY_TIMEOUT_S = 60.0


@dataclass
class Cluster:
    """One service in one home."""

    settings: Settings
    database: Database
    redis: EmbeddedRedis
    workers: dict[str, WorkerProcess] = field(default_factory=dict)

    def start_worker(self, name: str = "w1", cpu_devices: int = 4, *, node: str = "", **options: Any) -> WorkerProcess:
        """Start a worker and wait until it is ready."""
        settings = dataclasses.replace(self.settings, node=node)
        worker = WorkerProcess(settings, {"gpus": None, "cpu_devices": cpu_devices, "name": name, **options})
        self.workers[name] = worker
        self.await_ready(worker)
        return worker

    def await_ready(self, worker: WorkerProcess) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not worker.read_ready():
            assert worker.exit_code() is None, f"the worker ended with {worker.exit_code()} before it was ready"
            assert time.monotonic() < deadline, "the worker was not ready in time"
            select.select(worker.descriptors, [], [], 0.5)

    def ensure_workers(self, *names: str) -> None:
        """Start those of these workers that are not running, all at once."""
        missing = [name for name in names if name not in self.workers or self.workers[name].exit_code() is not None]
        for name in missing:
            self.workers[name] = WorkerProcess(self.settings, {"gpus": None, "cpu_devices": 4, "name": name})
        for name in missing:
            self.await_ready(self.workers[name])

    def worker_of(self, job_id: int) -> WorkerProcess:
        """The worker that has the job's newest run."""
        worker_id = self.runs(job_id)[-1]["worker_id"]
        with self.database.read() as connection:
            rows = offers.list_workers(connection)
        return self.workers[next(row["name"] for row in rows if row["id"] == worker_id)]

    def cancel(self, job_id: int) -> None:
        """Cancel a job and wait for its end."""
        with self.database.write() as connection:
            jobs.request_cancel(connection, job_id, actor="tester")
        for name in self.workers:
            Doorbell(self.settings).ring_attend(name, 0)
        self.wait_for_end(job_id)

    def submit(self, model: str = "lenet", *sets: str, ring: bool = True, **request: Any) -> int:
        """Submit a job as the client does; returns its id."""
        new = prepare(Request(model, sets=sets, **request), user="tester")
        if not ring:
            with self.database.write() as connection:
                return new_jobs.insert_job(connection, new)[0]
        return enqueue(self.database, Doorbell(self.settings), new).job_id

    def job(self, job_id: int) -> RowMapping:
        with self.database.read() as connection:
            return jobs.get_job(connection, job_id)

    def runs(self, job_id: int) -> list[RowMapping]:
        with self.database.read() as connection:
            return runs.list_runs(connection, [job_id])

    def stage(self, job_id: int) -> str:
        """What the newest run of a job is doing before its first step."""
        return "".join(run["stage"] for run in self.runs(job_id)[-1:])

    def log(self, job_id: int) -> list[str]:
        with self.database.read() as connection:
            return [
                row["line"]
                for row in logs.list_lines(connection, [run["id"] for run in self._runs(connection, job_id)])
            ]

    def artifacts(self, job_id: int, kind: str | None = None) -> list[RowMapping]:
        with self.database.read() as connection:
            return artifacts.list_artifacts(connection, job_id, kind=kind)

    def wait_for_state(self, job_id: int, *states: str, timeout_s: float = 60.0) -> RowMapping:
        """Wait until the job is in one of these states."""
        wait_until(
            lambda: self.job(job_id)["state"] in states,
            timeout_s,
            lambda: f"job {job_id} {' or '.join(states)}: it is {dict(self.job(job_id))}",
        )
        return self.job(job_id)

    def wait_for_end(self, job_id: int, timeout_s: float = 90.0) -> RowMapping:
        return self.wait_for_state(job_id, *ENDED_JOBS, timeout_s=timeout_s)

    def wait_for_step(self, job_id: int, step: int, timeout_s: float = 60.0) -> RowMapping:
        """Wait until the job's newest run has reported `step`; returns the run."""
        wait_until(
            lambda: (self.runs(job_id) or [{"step": -1}])[-1]["step"] >= step,
            timeout_s,
            lambda: f"job {job_id} at step {step}: {self.runs(job_id)} {self.log(job_id)[-20:]}",
        )
        return self.runs(job_id)[-1]

    def stop(self) -> None:
        """Stop all workers at once, then Redis; whatever is left then fails the test."""
        family = [process for worker in self.workers.values() for process in family_of(worker.pid)]
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                if worker.exit_code() is None:
                    os.kill(worker.pid, signal.SIGCONT)
                    worker.terminate()
                    worker.terminate()
        for worker in self.workers.values():
            try:
                wait_until(lambda worker=worker: worker.exit_code() is not None, 30, "the worker's end")
            except TimeoutError:
                worker.kill()
                raise
            finally:
                worker.close()
        self.redis.stop()
        self.database.close()
        _gone, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        assert not alive, f"left running: {alive}"

    def _runs(self, connection: Any, job_id: int) -> list[RowMapping]:
        return runs.list_runs(connection, [job_id])


@contextlib.contextmanager
def running_cluster(home: Path, **settings: Any) -> Iterator[Cluster]:
    """A cluster with no worker yet; with `database_url` or `redis_url` among the settings those servers are used."""
    made = load_settings({"home": str(home), "user": "tester", **QUICK, **settings}, environ={})
    schema.upgrade(made)
    redis = EmbeddedRedis(made.home)
    if made.embedded_redis:
        redis.start()
    cluster = Cluster(made, schema.open_checked(made), redis)
    try:
        yield cluster
    finally:
        cluster.stop()


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
