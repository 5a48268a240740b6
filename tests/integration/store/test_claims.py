"""Claims and placements when many processes want the same thing at once."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise

from sqlalchemy import select

from dljobs.service import runs
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.states import JobState
from dljobs.service.tables import devices, jobs, leases
from dljobs.service.tables import runs as run_table

from .racing import race
from .rows import LEASE_S, add_worker, end, place, run_it, run_row, submit

NUM_JOBS = 200


def claim_all(url: str, worker_id: int, seed: int) -> list[int]:
    """Try to claim every run there is, in an order of one's own; returns those that were claimed."""
    database = Database(url)
    with database.read() as connection:
        keys = [RunKey(row.id, row.token) for row in connection.execute(select(run_table.c.id, run_table.c.token))]
    random.Random(seed).shuffle(keys)
    claimed = []
    for key in keys:
        with database.write() as connection:
            if runs.claim(connection, key, worker_id):
                claimed.append(key.run_id)
    database.close()
    return claimed


def test_eight_processes_claim_each_of_200_runs_once(database: Database, database_settings: Settings) -> None:
    worker = add_worker(database, num_devices=NUM_JOBS)
    for _ in range(NUM_JOBS):
        submit(database)
    assert len(dispatch(database, lease_s=LEASE_S)) == NUM_JOBS
    url = database_settings.sqlalchemy_url
    claimed = race(claim_all, *[(url, worker.worker_id, seed) for seed in range(8)])
    counts = Counter(run_id for run_ids in claimed for run_id in run_ids)
    assert len(counts) == NUM_JOBS
    assert set(counts.values()) == {1}
    with database.read() as connection:
        assert not runs.unclaimed_keys(connection, worker.worker_id)
        assert runs.list_runs(connection, [1])[0]["claimed_at"] is not None


def test_a_claim_needs_the_run_the_token_and_the_worker(database: Database) -> None:
    worker = add_worker(database)
    other = add_worker(database, "w2")
    _job, key = place(database)
    forged = [
        (RunKey(key.run_id, "0" * 32), worker.worker_id),
        (RunKey(key.run_id + 1, key.token), worker.worker_id),
        (RunKey(key.run_id, ""), worker.worker_id),
        (key, other.worker_id),
    ]
    before = run_row(database, key.run_id)
    for bad_key, worker_id in forged:
        with database.write() as connection:
            assert not runs.claim(connection, bad_key, worker_id)
    assert run_row(database, key.run_id) == before
    with database.write() as connection:
        assert runs.unclaimed_keys(connection, worker.worker_id) == [key]
        assert runs.claim(connection, key, worker.worker_id)
        assert not runs.claim(connection, key, worker.worker_id)
        assert runs.unclaimed_keys(connection, worker.worker_id) == []


def schedule_and_work(url: str, seed: int) -> list[int]:
    """Dispatch, run what was placed, in random order, until no job is left; returns the runs this process ended."""
    database = Database(url)
    draw = random.Random(seed)
    mine: list[RunKey] = []
    ended = []
    while True:
        mine += [placed.key for placed in dispatch(database, lease_s=LEASE_S)]
        if mine:
            key = mine.pop(draw.randrange(len(mine)))
            run_it(database, key)
            end(database, key, Outcome(None, "trained"))
            ended.append(key.run_id)
        with database.read() as connection:
            if not mine and not connection.execute(select(jobs.c.id).where(jobs.c.state == JobState.QUEUED)).all():
                return ended


def test_two_schedulers_never_place_a_device_twice(database: Database, database_settings: Settings) -> None:
    add_worker(database, "w1", 4)
    add_worker(database, "w2", 4)
    sizes = [1, 2, 4, 1, 3] * 6
    for num_devices in sizes:
        submit(database, num_devices)
    url = database_settings.sqlalchemy_url
    ended = race(schedule_and_work, (url, 1), (url, 2), (url, 3))
    assert sorted(run_id for run_ids in ended for run_id in run_ids) == list(range(1, len(sizes) + 1))
    with database.read() as connection:
        assert set(connection.execute(select(jobs.c.state, jobs.c.num_runs)).all()) == {("succeeded", 1)}
    assert_leases_are_sound(database, sizes)


def assert_leases_are_sound(database: Database, sizes: list[int]) -> None:
    """No device had two leases at a time; each run had all its devices, on one worker."""
    with database.read() as connection:
        rows = connection.execute(
            select(leases, devices.c.worker_id, run_table.c.job_id, run_table.c.worker_id.label("run_worker"))
            .join(devices, devices.c.id == leases.c.device_id)
            .join(run_table, run_table.c.id == leases.c.run_id)
        ).all()
    by_device, by_job = defaultdict(list), defaultdict(list)
    for row in rows:
        by_device[row.device_id].append((row.acquired_at, row.released_at))
        by_job[row.job_id].append(row)
    for spans in by_device.values():
        spans.sort()
        assert all(released is not None for _acquired, released in spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    for job_id, held in by_job.items():
        assert len({row.device_id for row in held}) == len(held) == sizes[job_id - 1]
        assert {row.worker_id for row in held} == {held[0].run_worker}
