"""Forty jobs on two workers while doorbells are lost and repeated, on both databases: each runs once."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from dljobs.service.database import Database
from dljobs.service.doorbell import Doorbell
from dljobs.service.tables import jobs, leases, runs
from tests.cluster import Cluster, running_cluster
from tests.databases import PostgresServer
from tests.redis_server import RedisServer
from tests.unreliable_doorbell import UnreliableDoorbell
from tests.waiting import wait_until

NUM_JOBS = 40
SIZES = (1, 2, 4)


@pytest.mark.parametrize("servers", ["embedded", "postgres-and-redis"])
def test_forty_jobs_succeed_exactly_once(
    servers: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {}
    if servers == "postgres-and-redis":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        redis: RedisServer = request.getfixturevalue("redis_server")
        urls = {"database_url": postgres.url_of_new_database(), "redis_url": redis.url}
    # The workers are processes of their own: they learn of the unreliable doorbells through this variable.
    paths = [str(Path(__file__).parents[1] / "unreliable"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with running_cluster(tmp_path / "home", **urls) as cluster:
        for name in ("w1", "w2"):
            cluster.start_worker(name, cpu_devices=4)
        chooser = random.Random(20)
        bell = UnreliableDoorbell(cluster.settings)
        job_ids = [submit(cluster, bell, chooser) for _ in range(NUM_JOBS)]
        wait_until(lambda: num_active(cluster.database) == 0, 150, "the end of all jobs")
        check_all_succeeded_once(cluster.database, job_ids)
        log = [line for record in (tmp_path / "home").glob("*.bells") for line in record.read_text().split()]
        assert (bell.num_dropped, bell.num_repeated) == (NUM_JOBS / 5, NUM_JOBS / 5)
        # How often they ring each other depends on who places what; that they are unreliable does not.
        assert not log or "dropped" in log


def submit(cluster: Cluster, bell: Doorbell, chooser: random.Random) -> int:
    from dljobs.service.submission import Request, enqueue, prepare

    size = chooser.choice(SIZES)
    new = prepare(Request("lenet", num_devices=size, sets=["epochs=1", "max_steps=2"]), user="tester")
    return enqueue(cluster.database, bell, new).job_id


def num_active(database: Database) -> int:
    with database.read() as connection:
        states = connection.execute(select(jobs.c.state)).scalars().all()
    return sum(state not in ("succeeded", "failed", "cancelled") for state in states)


def check_all_succeeded_once(database: Database, job_ids: list[int]) -> None:
    with database.read() as connection:
        states = dict(connection.execute(select(jobs.c.id, jobs.c.state)).all())
        all_runs = connection.execute(select(runs)).mappings().all()
        held = connection.execute(select(leases).order_by(leases.c.device_id, leases.c.acquired_at)).mappings().all()
    assert {states[job_id] for job_id in job_ids} == {"succeeded"}
    assert sorted(run["job_id"] for run in all_runs) == sorted(job_ids), "one run each"
    assert {run["state"] for run in all_runs} == {"succeeded"}
    assert all(lease["released_at"] is not None for lease in held), "nothing is held any more"
    for earlier, later in itertools.pairwise(held):
        if earlier["device_id"] == later["device_id"]:
            # SQLite's clock resolves about 0.05 ms here.
            assert earlier["released_at"] <= later["acquired_at"] + 1e-4, "a device had two leases at once"
    assert max(held, key=lambda lease: lease["released_at"])["released_at"] <= time.time() + 5
