"""Ranges and shares: a run's rows say what it got, and no two schedulers give more of a device than there is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from dljobs.service import offers, runs
from dljobs.service.alteration import alter_job
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.gpus import CUDA_CONTEXT_BYTES
from dljobs.service.planned import make_plan
from dljobs.service.registration import DeviceInfo
from dljobs.service.runs import Outcome, create_runs
from dljobs.service.scheduling.rows import Part, Placed, Selector, Sharer
from dljobs.service.sizes import Size
from dljobs.service.snapshot import MEASURED_HEADROOM
from dljobs.service.tables import devices, ledger
from dljobs.service.tables import leases as lease_table
from dljobs.service.tables import runs as run_table
from dljobs.workers.channel import EventWriter
from dljobs.workers.folder import RunFolder
from dljobs.workers.reports import Reports

from .rows import LEASE_S, add_worker, end, job_row, new_job, place, place_again, run_it, run_row, start, submit

GPU_BYTES = 80 * 10**9


def add_gpu(database: Database, number: int = 1) -> None:
    offered = [DeviceInfo(f"GPU-{n}", "cuda", "NVIDIA H100 80GB HBM3", n, GPU_BYTES) for n in range(number)]
    add_worker(database, devices=offered)


def leased(database: Database) -> list[int]:
    """What is leased of each device, which its live leases must add up to."""
    with database.read() as connection:
        percent = {row.id: row.leased_percent for row in connection.execute(select(devices).order_by(devices.c.id))}
        held = offers.held_devices(connection)
    sums = {device_id: sum(row["percent"] for row in held if row["device_id"] == device_id) for device_id in percent}
    assert percent == sums
    return list(percent.values())


def test_a_range_gets_what_is_free_and_its_run_says_so(database: Database) -> None:
    add_worker(database, num_devices=3)
    job_id = submit(database, 8, min_devices=2)
    key = place_again(database, job_id)
    job = job_row(database, job_id)
    assert (job["num_devices"], job["min_devices"], run_row(database, key.run_id)["num_devices"]) == (8, 2, 3)
    assert leased(database) == [100, 100, 100]
    with database.write() as connection:
        a_while_ago = update(run_table).values(created_at=run_table.c.created_at - 100)
        connection.execute(a_while_ago)
    run_it(database, key)
    end(database, key, Outcome(None, "trained"))
    assert leased(database) == [0, 0, 0]
    with database.read() as connection:
        assert connection.execute(select(ledger.c.device_s)).scalar_one() == pytest.approx(300, abs=30)


def test_jobs_share_a_device_and_a_whole_one_waits(database: Database) -> None:
    add_gpu(database)
    halves = [submit(database, share_percent=50) for _ in range(3)]
    whole = submit(database)
    keys = [placed.key for placed in dispatch(database, lease_s=LEASE_S)]
    assert [run_row(database, key.run_id)["job_id"] for key in keys] == halves[:2]
    assert leased(database) == [100]
    with database.read() as connection:
        assert [row["memory_bytes"] for row in offers.held_devices(connection)] == [GPU_BYTES // 2] * 2
        [reason, _ahead] = make_plan(connection, lease_s=LEASE_S).reasons(whole)
    assert reason.text.startswith("it needs 1 device; the best worker, w1, has 0 free (held by jobs 1, 2)")
    run_it(database, keys[0])
    end(database, keys[0], Outcome(None, "trained"))
    assert leased(database) == [50]
    assert place_again(database, halves[2])
    assert dispatch(database, lease_s=LEASE_S) == []


def test_two_schedulers_never_give_more_of_a_device_than_there_is(database: Database) -> None:
    """Both have planned before either writes, as if the lock were not there."""
    add_gpu(database)
    ids = [submit(database, share_percent=60) for _ in range(4)]
    barrier = threading.Barrier(4)

    def place_it(job_id: int) -> bool:
        barrier.wait(10)
        try:
            with database.write() as connection:
                create_runs(connection, [Placed(job_id, (Part(1, (1,)),), Sharer(job_id, 60))], LEASE_S)
        except IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(place_it, ids)) == [False, False, False, True]
    assert leased(database) == [60]
    assert sorted(job_row(database, job_id)["state"] for job_id in ids) == ["queued"] * 3 + ["starting"]
    whole = submit(database)
    with pytest.raises(IntegrityError), database.write() as connection:
        create_runs(connection, [Placed(whole, (Part(1, (1,)),))], LEASE_S)
    assert leased(database) == [60]


def test_many_dispatches_at_once_fill_a_device(database: Database) -> None:
    add_gpu(database, 2)
    ids = [submit(database, share_percent=30) for _ in range(10)]
    barrier = threading.Barrier(4)

    def one() -> list[int]:
        barrier.wait(10)
        return [placed.key.run_id for placed in dispatch(database, lease_s=LEASE_S)]

    with ThreadPoolExecutor(4) as pool:
        found = [run_id for each in [pool.submit(one) for _ in range(4)] for run_id in each.result(30)]
    assert len(found) == len(set(found)) == 6
    assert leased(database) == [90, 90]
    assert len(ids) == 10


def test_memory_as_declared_or_measured(database: Database) -> None:
    add_gpu(database)
    measured_job, key = start(database)
    with database.write() as connection:
        connection.execute(update(run_table).where(run_table.c.id == key.run_id).values(peak_memory_bytes=20 * 10**9))
    end(database, key, Outcome(None, "trained"))
    submit(database, share_percent=10, selector=Selector(memory_bytes=30 * 10**9))
    submit(database, share_percent=10)
    submit(database, share_percent=10, selector=Selector(memory_bytes=30 * 10**9))
    dispatch(database, lease_s=LEASE_S)
    with database.read() as connection:
        kept = [row["memory_bytes"] for row in offers.held_devices(connection)]
        planned = make_plan(connection, lease_s=LEASE_S)
    assert kept == [30 * 10**9, round(20 * 10**9 * MEASURED_HEADROOM) + CUDA_CONTEXT_BYTES]
    [reason] = planned.reasons(measured_job + 3)
    assert reason.text.startswith(
        "it needs 0.1 of a device (30 GB of memory); no device is free, and of the shared ones"
    )
    assert "has 0.8 and 27.4 GB of memory left" in reason.text


def test_the_most_memory_of_all_ranks_is_kept(database: Database, tmp_path: Path) -> None:
    """However the events of the ranks come in: together, apart, the larger one first or last."""
    _job, key = start(database, 3)
    folder = RunFolder(tmp_path).create()
    reports = Reports(database, key, folder, range(3), lambda _event: None)
    for rank, peak in ((0, 5 * 10**9), (1, 9 * 10**9), (2, 7 * 10**9)):
        writer = EventWriter(folder.events(rank))
        writer.write("memory", peak_bytes=peak)
        writer.close()
        reports.read()
        assert reports.ship(force=True) or reports.ship(force=True)
    assert run_row(database, key.run_id)["peak_memory_bytes"] == 9 * 10**9


def test_another_size_while_it_waits(database: Database) -> None:
    job_id, key = start(database, 2)
    end(database, key, Outcome(runs.FailureClass.PREEMPTED, "drained"))
    for size in (Size(4, 2), Size(share_percent=25), Size(1, 1)):
        with database.write() as connection:
            alter_job(connection, job_id, {"size": size}, actor="ada")
        job = job_row(database, job_id)
        assert Size(job["num_devices"], job["min_devices"], job["share_percent"]) == size
    assert job["strategy"] == "single"


def test_the_database_refuses_what_no_code_of_ours_would_write(database: Database) -> None:
    _job, key = place(database)
    for statement in (
        "UPDATE devices SET leased_percent = 101",
        "UPDATE devices SET leased_percent = -1",
        "UPDATE jobs SET min_devices = num_devices + 1",
        "UPDATE jobs SET share_percent = 0",
        "UPDATE jobs SET share_percent = 50, num_devices = 2, min_devices = 1",
        "UPDATE leases SET percent = 0",
    ):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.exec_driver_sql(statement)
    with database.read() as connection:
        assert connection.execute(select(lease_table.c.run_id)).scalars().all() == [key.run_id]
    assert new_job(4, min_devices=2).size == Size(4, 2)
