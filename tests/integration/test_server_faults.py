"""Redis, the database and the ways to them fail under two workers, whose clocks are wrong all the time.

Each worker reaches Postgres and Redis over links of its own, which the tests cut, hang and heal.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, make_url, select, text

from dljobs.service import events
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.doorbell import SCHEDULE_QUEUE, worker_queue
from dljobs.service.tables import leases, metrics
from dljobs.service.worker_process import WorkerProcess
from tests.cluster import Cluster, family_of, running_cluster
from tests.databases import PostgresServer
from tests.deployment import listening_at
from tests.link import Link
from tests.redis_server import PASSWORD, RedisServer
from tests.waiting import wait_until

# How wrong the clock of each worker's host is.
CLOCKS_S = {"w1": 600.0, "w2": -600.0}
NET = """
import time
from torch import nn

class Net(nn.Module):
    '''Says each training batch.'''

    def __init__(self, step_s: float = 0.03):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
        self.step_s, self.num = step_s, 0

    def forward(self, x):
        if self.training:
            time.sleep(self.step_s)
            self.num += 1
            print("batch", self.num, flush=True)
        return self.layers(x)
"""
DATA = """
import torch
from dljobs.models.data import Data, TensorSplit

def make_data():
    x = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(x, torch.arange(64) % 10)
    return Data(split, split, sample_shape=(1, 32, 32), num_classes=10)
"""
STEPS_PER_EPOCH = 8


@dataclasses.dataclass
class Site:
    cluster: Cluster
    redis: RedisServer
    to_redis: Link
    to_postgres: dict[str, Link]  # by worker

    def name_of_worker_of(self, job_id: int) -> str:
        worker = self.cluster.worker_of(job_id)
        return next(name for name, each in self.cluster.workers.items() if each is worker)

    @contextmanager
    def outage(self, how: str, *names: str) -> Iterator[None]:
        """These workers do not reach the database until the end of the block."""
        for name in names:
            getattr(self.to_postgres[name], how)()
        try:
            yield
        finally:
            for name in names:
                self.to_postgres[name].heal()


@pytest.fixture(scope="module")
def shared_site(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    redis = RedisServer(folder / "redis")
    redis.start()
    url = postgres_server.url_of_new_database(migrated=True)
    links = {name: Link(listening_at(url)) for name in CLOCKS_S}
    to_redis = Link(redis.port)
    redis_url = f"redis://:{PASSWORD}@127.0.0.1:{to_redis.port}/0"
    try:
        with running_cluster(folder / "home", database_url=url, redis_url=redis_url) as cluster:
            for name, link in links.items():
                start_worker(cluster, name, link)
            for worker in cluster.workers.values():
                cluster.await_ready(worker)
            yield Site(cluster, redis, to_redis, links)
    finally:
        redis.stop()
        for link in (to_redis, *links.values()):
            link.close()


def start_worker(cluster: Cluster, name: str, link: Link) -> None:
    """A worker that reaches the database over this link, on a host whose clock is wrong."""
    there = make_url(cluster.settings.database_url).set(host="127.0.0.1", port=link.port, query={})
    settings = dataclasses.replace(cluster.settings, database_url=there.render_as_string(hide_password=False))
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parents[1] / "skewed_clock"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("DLJOBS_TEST_CLOCK_S", str(CLOCKS_S[name]))
        cluster.workers[name] = WorkerProcess(settings, {"gpus": None, "cpu_devices": 2, "name": name})


@pytest.fixture
def site(shared_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return shared_site


def submit(cluster: Cluster, *sets: str, num_epochs: int, **request: Any) -> int:
    training = (f"epochs={num_epochs}", "batch_size=8", "log_every=1")
    return cluster.submit("./net.py:Net", *training, *sets, data="./data.py:make_data", **request)


def wait_until_leases_are_over(database: Database, by_s: float = 2.0) -> None:
    overdue = select(func.max(now() - leases.c.expires_at)).where(leases.c.released_at.is_(None))

    def is_over() -> bool:
        with database.read() as connection:
            return bool(connection.execute(overdue).scalar_one() > by_s)

    wait_until(is_over, 40, "leases that nobody renews")


def check_everything_arrived_once(cluster: Cluster, job_id: int, num_epochs: int) -> None:
    """The job succeeded in its first run, and each step has its loss and its line in the log, in their order."""
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", dict(job)
    (run,) = cluster.runs(job_id)
    num_steps = num_epochs * STEPS_PER_EPOCH
    losses = (metrics.c.run_id == run["id"], metrics.c.split == "train", metrics.c.name == "loss")
    with cluster.database.read() as connection:
        steps = list(connection.execute(select(metrics.c.step).where(*losses).order_by(metrics.c.id)).scalars())
    assert steps == list(range(1, num_steps + 1))
    said = [line for line in cluster.log(job_id) if line.startswith("batch ")]
    assert said == [f"batch {number}" for number in range(1, num_steps + 1)]


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_the_database_is_away_for_longer_than_a_lease(site: Site, how: str) -> None:
    cluster = site.cluster
    job_id = submit(cluster, num_epochs=40)
    cluster.wait_for_step(job_id, 5)
    with site.outage(how, *CLOCKS_S):
        reported = cluster.runs(job_id)[0]["step"]
        meanwhile = submit(cluster, num_epochs=1)
        wait_until_leases_are_over(cluster.database)
        (spool,) = (cluster.settings.home / "runs").glob("*/rank-0.jsonl")
        steps = [int(number) for number in re.findall(r'"step":(\d+)', spool.read_text())]
        assert max(steps) >= reported + 50, "training goes on"
        assert cluster.job(meanwhile)["state"] == "queued"
    check_everything_arrived_once(cluster, job_id, 40)
    check_everything_arrived_once(cluster, meanwhile, 1)


def test_a_database_without_room_is_one_that_is_away(site: Site) -> None:
    cluster = site.cluster
    job_id = submit(cluster, num_epochs=40)
    cluster.wait_for_step(job_id, 5)
    tables = ("metrics", "logs", "blobs", "runs", "workers")
    raised = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'"
    function = f"CREATE FUNCTION no_room() RETURNS trigger AS $$ BEGIN {raised}; END $$ LANGUAGE plpgsql"
    with cluster.database.write() as connection:
        connection.execute(text(function))
        for table in tables:
            when = f"BEFORE INSERT OR UPDATE ON {table}"
            connection.execute(text(f"CREATE TRIGGER full_disk {when} EXECUTE FUNCTION no_room()"))
    try:
        wait_until_leases_are_over(cluster.database)
    finally:
        with cluster.database.write() as connection:
            connection.execute(text("DROP FUNCTION no_room CASCADE"))
    check_everything_arrived_once(cluster, job_id, 40)


def test_a_worker_is_cut_off_and_comes_back_late(site: Site) -> None:
    cluster = site.cluster
    job_id = submit(cluster, "checkpoint_every_steps=10", num_epochs=1000)
    wait_until(lambda: cluster.artifacts(job_id, "checkpoint"), 30, "a checkpoint")
    name = site.name_of_worker_of(job_id)
    ranks = [process for process in family_of(cluster.workers[name].pid) if not process.children()]
    with site.outage("cut", name):
        wait_until(lambda: len(cluster.runs(job_id)) == 2, 40, "a second run, on the other worker")
        cluster.wait_for_state(job_id, "running")
        before = dict(cluster.runs(job_id)[0])
        assert f"worker {name} went silent" in before["reason"]
        assert all(rank.is_running() for rank in ranks), "cut off from everybody, they train on"
    _gone, alive = psutil.wait_procs(ranks, timeout=20)
    assert len(alive) < len(ranks), "the ranks of a lost run must be killed on return"
    history = lambda: [event["reason"] for event in list_events(cluster, job_id)]  # noqa: E731
    wait_until(lambda: any(f"its ranks on {name} were killed" in reason for reason in history()), 20, "why")
    assert dict(cluster.runs(job_id)[0]) == before, "the old run wrote after its end"
    assert any("resuming from step-" in line for line in cluster.log(job_id))
    cluster.cancel(job_id)


def list_events(cluster: Cluster, job_id: int) -> list[Any]:
    with cluster.database.read() as connection:
        return events.list_events(connection, job_id=job_id)


@pytest.mark.parametrize("how", ["reset", "cut", pytest.param("hang", marks=pytest.mark.slow)])
def test_the_way_to_redis_fails_and_workers_consume_again(site: Site, how: str) -> None:
    cluster = site.cluster
    job_id = submit(cluster, num_epochs=20)
    cluster.wait_for_step(job_id, 5)
    getattr(site.to_redis, how)()
    meanwhile = submit(cluster, num_epochs=1)
    check_everything_arrived_once(cluster, meanwhile, 1)
    site.to_redis.heal()
    check_everything_arrived_once(cluster, job_id, 20)
    wait_until(lambda: queue_is_read(site.redis), 60, "the consumers' return")


@pytest.mark.parametrize("with_its_file", [True, False])
def test_redis_is_killed_and_started_again(site: Site, with_its_file: bool) -> None:
    cluster = site.cluster
    job_id = submit(cluster, num_epochs=20)
    cluster.wait_for_step(job_id, 5)
    site.redis.kill()
    if not with_its_file:
        shutil.rmtree(site.redis.folder)
    meanwhile = submit(cluster, num_epochs=1)
    site.redis.start()
    check_everything_arrived_once(cluster, meanwhile, 1)
    check_everything_arrived_once(cluster, job_id, 20)
    wait_until(lambda: queue_is_read(site.redis), 60, "the consumers' return")


def queue_is_read(redis: RedisServer) -> bool:
    """Whether consumers wait for messages: each holds a connection that blocks."""
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        return sum(connection["cmd"] == "brpop" for connection in client.client_list()) == len(CLOCKS_S)


# What is no message of Celery's, in a queue that anybody with the password can write to.
JUNK = [
    b"",
    b"junk",
    b"{}",
    b"[]",
    b"null",
    b"1",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"body": "junk"}',
    b'{"body": "W10=", "headers": null, "properties": null}',
    b'{"body": "///", "content-encoding": "utf-8", "content-type": "application/json", "headers": {}, '
    b'"properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {}}}',
    b'{"body": "gASVAAAAAAAAAA==", "content-encoding": "binary", "content-type": "application/x-python-serialize", '
    b'"headers": {"task": "dljobs.schedule", "id": "1"}, "properties": {"body_encoding": "base64", '
    b'"delivery_tag": "y", "delivery_info": {"exchange": "", "routing_key": "dljobs.schedule"}}}',
]


def test_junk_in_the_queues_is_passed_over(site: Site) -> None:
    from redis import Redis

    cluster = site.cluster
    pids = {worker.pid for worker in cluster.workers.values()}
    queues = [SCHEDULE_QUEUE, *(worker_queue(name) for name in cluster.workers)]
    with Redis.from_url(site.redis.url) as client:
        for junk in JUNK:
            for queue in queues:
                client.lpush(f"dljobs:{queue}", junk)
        wait_until(lambda: not any(client.llen(f"dljobs:{queue}") for queue in queues), 60, "the end of the junk")
    check_everything_arrived_once(cluster, submit(cluster, num_epochs=1), 1)
    wait_until(lambda: queue_is_read(site.redis), 60, "the consumers")
    assert {worker.pid for worker in cluster.workers.values() if worker.exit_code() is None} == pids


def test_clocks_that_differ_by_minutes_change_nothing(site: Site) -> None:
    cluster = site.cluster
    job_ids = [submit(cluster, num_epochs=1, num_devices=2, strategy="dp") for _ in CLOCKS_S]
    for job_id in job_ids:
        check_everything_arrived_once(cluster, job_id, 1)
        (run,) = cluster.runs(job_id)
        assert run["created_at"] <= run["started_at"] <= run["ended_at"] <= run["created_at"] + 60
        assert run["created_at"] <= run["first_step_at"] <= run["ended_at"]
        with cluster.database.read() as connection:
            of_run = select(metrics.c.at).where(metrics.c.run_id == run["id"])
            measured_at = connection.execute(of_run).scalars().first()
        wrong_by_s = CLOCKS_S[site.name_of_worker_of(job_id)]
        assert measured_at == pytest.approx(run["ended_at"] + wrong_by_s, abs=60), "the clock was not shifted"


DYING_CLIENT = """
import os, sys
from dljobs.service.doorbell import Doorbell
Doorbell._ring = lambda *_: os.kill(os.getpid(), 9)
from dljobs.service.cli import main
main()
"""


def test_a_client_dies_between_commit_and_doorbell_and_submits_again(site: Site) -> None:
    cluster = site.cluster
    environment = {**os.environ, **cluster.settings.to_environment()}
    arguments = [
        "submit",
        "lenet",
        "--set",
        "epochs=1",
        "--set",
        "max_steps=2",
        "--idempotency-key",
        "night",
        "--parsable",
    ]
    died = subprocess.run([sys.executable, "-c", DYING_CLIENT, *arguments], env=environment, check=False, timeout=60)
    assert died.returncode == -9
    again = [sys.executable, "-c", "import sys; from dljobs.service.cli import main; main()", *arguments]
    said = [subprocess.run(again, env=environment, check=True, capture_output=True, text=True) for _ in range(2)]
    (job_id,) = {int(each.stdout) for each in said}
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert len(cluster.runs(job_id)) == 1
    with cluster.database.read() as connection:
        night = "SELECT count(*) FROM jobs WHERE idempotency_key = 'night'"
        assert connection.execute(text(night)).scalar_one() == 1


def test_sqlite_is_locked_for_longer_than_a_lease(site: Site, tmp_path: Path) -> None:
    """Beats and sweeps of both workers wait for the same lock: whoever gets it first must not judge the other."""
    with running_cluster(tmp_path / "home") as cluster:
        cluster.ensure_workers("w1", "w2")
        job_id = submit(cluster, num_epochs=40)
        cluster.wait_for_step(job_id, 5)
        with closing(sqlite3.connect(cluster.settings.sqlite_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            wait_until_leases_are_over(cluster.database)
        check_everything_arrived_once(cluster, job_id, 40)
