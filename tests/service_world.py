"""A small world of rows for tests: jobs, workers and runs, made by the service's own functions, with no process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from dljobs.service import ends, logs, metrics, new_jobs, registration, runs
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.failures import FailureClass
from dljobs.service.metrics import Point
from dljobs.service.process_mark import ProcessMark
from dljobs.service.registration import DeviceInfo, Registration, WorkerInfo
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.submission import Request, prepare
from dljobs.service.tables import workers


class World:
    """Rows in a database of its own."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._numbers = itertools.count()

    def job(self, model: str = "lenet", **request: Any) -> int:
        """A job in the queue."""
        with self.database.write() as connection:
            return new_jobs.insert_job(connection, prepare(Request(model, **request), self.settings.user))[0]

    def worker(self, name: str = "w1", num_devices: int = 4, node: str = "node1") -> Registration:
        """A worker that takes work."""
        first = next(self._numbers) * 100
        offered = [DeviceInfo(f"{name}-cpu-{n}", "cpu", "CPU", first + n, None) for n in range(num_devices)]
        info = WorkerInfo(name, node, ProcessMark(4000 + first, "born"), {"torch": "2.15"}, offered)
        with self.database.write() as connection:
            return registration.register(connection, info, stale_after_s=60, is_alive=lambda _mark: True)

    def silence(self, worker: Registration, silent_s: float) -> None:
        """Let the worker's last heartbeat be so long ago."""
        with self.database.write() as connection:
            mine = workers.update().where(workers.c.id == worker.worker_id)
            connection.execute(mine.values(heartbeat_at=workers.c.heartbeat_at - silent_s))

    def place(self) -> list[RunKey]:
        """Place what can be placed; the runs are starting."""
        return [placed.key for placed in dispatch(self.database, lease_s=60)]

    def start(self) -> RunKey:
        """Place the one job that waits, and let its ranks start."""
        (key,) = self.place()
        self.run(key)
        return key

    def run(self, key: RunKey) -> None:
        """Let the ranks of a run that was placed start."""
        with self.database.write() as connection:
            runs.claim(connection, key, runs.get_run(connection, key.run_id)["worker_id"])
            runs.mark_running(connection, key, actor="w1")

    def progress(self, key: RunKey, step: int, total_steps: int, *, epoch: int = 1, steps_per_s: float = 10.0) -> None:
        """Move the run to a step."""
        values = {"step": step, "total_steps": total_steps, "epoch": epoch, "steps_per_s": steps_per_s}
        with self.database.write() as connection:
            runs.fenced_update(connection, key, **values)

    def end(self, key: RunKey, failure: FailureClass | None = None, reason: str = "finished", **outcome: Any) -> None:
        """End the run."""
        with self.database.write() as connection:
            ends.end_run(connection, key.run_id, Outcome(failure, reason, **outcome), actor="w1", token=key.token)

    def succeed(self, key: RunKey, **result: Any) -> None:
        """End the run with a result."""
        self.end(key, result=result)

    def finished_job(self, failure: FailureClass | None = None, **request: Any) -> int:
        """A job that has ended; needs a worker with free devices, and an empty queue."""
        job_id = self.job(max_retries=0, **request)
        self.end(self.start(), failure, str(failure or "finished"), result={"accuracy": 0.975} if not failure else None)
        return job_id

    def write_log(self, key: RunKey, *lines: tuple[int | None, str]) -> None:
        """Add (rank, line) pairs to the run's log."""
        with self.database.write() as connection:
            logs.add_lines(connection, key.run_id, lines)

    def write_points(self, key: RunKey, split: str, name: str, values: dict[int, float]) -> None:
        """Add a metric's values by step."""
        with self.database.write() as connection:
            points = [Point(step, step // 10, split, name, value, 0.0) for step, value in values.items()]
            metrics.add_points(connection, key.run_id, points)

    def trained_job(self, state_dict: dict[str, Any], **request: Any) -> int:
        """A job that has ended with these tensors as its weights."""
        from dljobs.workers.weights import copy_to_host, write_state_dict

        job_id = self.job(**request)
        key = self.start()
        path = Path(self.settings.home) / "weights"
        write_state_dict(*copy_to_host(state_dict), path)
        self.store(key, 1, path.read_bytes(), accuracy=0.5)
        self.succeed(key, accuracy=0.5, per_class={"0": 1.0}, best={"epoch": 1})
        return job_id

    def store(self, key: RunKey, epoch: int, content: bytes = b"weights", **metrics_of: float) -> int:
        """Store a state_dict of the run."""
        path = Path(self.settings.home) / "upload"
        path.write_bytes(content)
        what = Description("state_dict", f"epoch-{epoch}", step=epoch * 10, epoch=epoch, metrics=metrics_of)
        return ArtifactStore(self.database).put(key, what, path)
