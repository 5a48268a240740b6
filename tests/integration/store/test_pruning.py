"""Halving over rows: who is stopped, however many measure at once, on both databases."""

from __future__ import annotations

from sqlalchemy import select

from dljobs.service import jobs, metrics, pruning, runs
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.halving import Rule
from dljobs.service.metrics import Point
from dljobs.service.runs import RunKey
from dljobs.service.settings import Settings
from dljobs.service.tables import jobs as job_table

from .racing import race
from .rows import LEASE_S, add_worker, job_row, run_it, submit_set

RULE = Rule("accuracy", "max", 2)


def running_set(database: Database, number: int) -> tuple[int, list[int], list[RunKey]]:
    """A set of trials that all run, in their order."""
    add_worker(database, num_devices=number)
    set_id, members = submit_set(database, number, halving=RULE)
    with database.write() as connection:
        connection.execute(job_table.update().values(num_epochs=9))
    keys = {}
    for placed in dispatch(database, lease_s=LEASE_S):
        run_it(database, placed.key)
        with database.read() as connection:
            keys[runs.get_run(connection, placed.key.run_id)["job_id"]] = placed.key
    return set_id, members, [keys[job_id] for job_id in members]


def measure(database: Database, set_id: int, run_id: int, value: float, epoch: int = 1) -> list[int]:
    """Write a measurement as a worker does, and judge."""
    with database.write() as connection:
        metrics.add_points(connection, run_id, [Point(epoch * 10, epoch, "test", "accuracy", value, 0.0)])
        return pruning.judge(connection, set_id, RULE)


def pruned(database: Database, set_id: int) -> list[int]:
    with database.read() as connection:
        fallen = (job_table.c.set_id == set_id, job_table.c.prune_reason.is_not(None))
        return list(connection.execute(select(job_table.c.id).where(*fallen).order_by(job_table.c.id)).scalars())


def measure_in_a_process(url: str, set_id: int, run_id: int, value: float) -> list[int]:
    return measure(Database(url), set_id, run_id, value)


def test_a_trial_that_falls_behind_is_stopped_once(database: Database) -> None:
    set_id, members, keys = running_set(database, 3)
    assert measure(database, set_id, keys[0].run_id, 0.5) == []
    assert measure(database, set_id, keys[1].run_id, 0.9) == [members[0]]
    assert measure(database, set_id, keys[2].run_id, 0.8) == [members[2]], "the first is not told twice"
    assert "accuracy 0.5 is place 2 of 2" in job_row(database, members[0])["prune_reason"]


def test_the_last_of_those_who_measure_at_once_sees_all(database: Database, database_settings: Settings) -> None:
    set_id, members, keys = running_set(database, 8)
    url = database_settings.sqlalchemy_url
    told = race(measure_in_a_process, *[(url, set_id, key.run_id, n / 10) for n, key in enumerate(keys)])
    # Whatever the order, those outside of the best half of all are gone; who led for a while may be safe from no one.
    assert set(members[:4]) <= set(pruned(database, set_id))
    assert members[7] not in pruned(database, set_id)
    assert sorted(job_id for each in told for job_id in each) == pruned(database, set_id), "each is told once"


def test_whoever_was_retried_by_hand_goes_on(database: Database) -> None:
    set_id, members, keys = running_set(database, 2)
    with database.write() as connection:
        connection.execute(job_table.update().where(job_table.c.id == members[0]).values(may_be_pruned=0))
    measure(database, set_id, keys[0].run_id, 0.1)
    assert measure(database, set_id, keys[1].run_id, 0.9) == []


def test_a_trial_that_waits_ends_where_it_is(database: Database) -> None:
    set_id, members, keys = running_set(database, 2)
    measure(database, set_id, keys[0].run_id, 0.1)
    with database.write() as connection:
        jobs.move_job(connection, members[0], jobs.JobState.QUEUED, actor="test", reason="preempted")
    assert measure(database, set_id, keys[1].run_id, 0.9) == []
    row = job_row(database, members[0])
    assert (row["state"], row["failure_class"]) == ("cancelled", "pruned")
