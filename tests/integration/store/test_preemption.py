"""Preemption as rows, on both databases: who is asked to go, what is kept meanwhile, and what everybody is told."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select, update

from dljobs.service import preemption, runs
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.dispatch import Dispatched, dispatch
from dljobs.service.events import list_events
from dljobs.service.explanation import explain
from dljobs.service.failures import FailureClass
from dljobs.service.preemption import Asked
from dljobs.service.reports import job_details
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.tables import jobs, kept_devices
from dljobs.service.tables import runs as run_table

from .rows import LEASE_S, add_worker, end, job_row, place, place_again, run_it, start, submit
from .test_scheduling import DONE, planned, set_policy

WENT = Outcome(FailureClass.PREEMPTED, "preempted: stopped after step 7")


def dispatched(database: Database) -> tuple[list[Dispatched], list[Asked]]:
    asked: list[Asked] = []
    return dispatch(database, lease_s=LEASE_S, notify=asked.append), asked


def kept(database: Database) -> dict[int, int]:
    with database.read() as connection:
        return {row.device_id: row.job_id for row in connection.execute(select(kept_devices))}


def asked_for(database: Database, key: RunKey) -> int | None:
    with database.read() as connection:
        return runs.get_run(connection, key.run_id)["preempted_for_id"]  # type: ignore[no-any-return]


def let_it_run(database: Database, key: RunKey, seconds: float) -> None:
    """Let so much time pass since the run was placed."""
    with database.write() as connection:
        mine = update(run_table).where(run_table.c.id == key.run_id)
        connection.execute(mine.values(created_at=now() - seconds))


def test_one_goes_and_the_other_has_its_devices(database: Database) -> None:
    add_worker(database, "w1", 2)
    victim, key = start(database, 2, is_preemptible=True, priority=20, max_retries=0)
    urgent = submit(database, 1, priority=80, user="bob")
    placed, asked = dispatched(database)
    assert (placed, asked) == ([], [Asked(key.run_id, "w1")])
    assert asked_for(database, key) == urgent
    assert list(kept(database).values()) == [urgent]
    assert explain(database, victim, lease_s=LEASE_S)["sentences"][-1] == (
        f"it is to checkpoint and make room for job {urgent}"
    )
    waits = explain(database, urgent, lease_s=LEASE_S)
    words = f"it is to have 1 device of w1 as soon as job {victim} has checkpointed and gone back in the queue"
    assert (waits["sentences"], [reason["code"] for reason in waits["reasons"]]) == ([words], ["Resources"])
    assert dispatched(database) == ([], []), "nobody is asked twice"

    assert end(database, key, WENT) == "queued"
    job = job_row(database, victim)
    assert (job["num_preempted"], job["num_retries"], job["num_lost"], job["eligible_at"]) == (1, 0, 0, None)
    [given] = dispatched(database)[0]
    with database.read() as connection:
        assert runs.get_run(connection, given.key.run_id)["job_id"] == urgent
        told = [event["reason"] for event in list_events(connection) if event["kind"] == "preempted"]
    assert told == [f"preempted by job {urgent} of bob (priority 80)"]
    assert kept(database) == {}
    shown = job_details(database, victim, lease_s=LEASE_S)
    assert (shown["num_preempted"], shown["runs"][0]["preempted_for_id"]) == (1, urgent)


def test_who_was_preempted_comes_back_and_is_spared_for_a_while(database: Database) -> None:
    add_worker(database, "w1", 1)
    victim, key = start(database, is_preemptible=True, priority=20)
    urgent = submit(database, priority=80)
    dispatched(database)
    end(database, key, WENT)
    first = place_again(database, urgent)
    run_it(database, first)
    assert dispatched(database) == ([], []), "it does not preempt back"
    end(database, first, DONE)
    again = place_again(database, victim)
    run_it(database, again)
    another = submit(database, priority=90)
    assert dispatched(database) == ([], [])
    assert planned(database).plan.preempted == []
    let_it_run(database, again, 601.0)
    assert dispatched(database) == ([], [Asked(again.run_id, "w1")])
    assert asked_for(database, again) == another


def test_no_one_comes_between(database: Database) -> None:
    """The devices are kept although others stand ahead in the queue, by their age."""
    add_worker(database, "w1", 1)
    _victim, key = start(database, is_preemptible=True, priority=20)
    urgent = submit(database, priority=50)
    dispatched(database)
    aged = submit(database, priority=45)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == aged).values(submitted_at=now() - 10 * 86400))
    end(database, key, WENT)
    assert [placed.job_id for placed in planned(database).placed] == [urgent]


def test_what_is_kept_for_a_job_that_is_gone_is_free_again(database: Database) -> None:
    add_worker(database, "w1", 1)
    _victim, key = start(database, is_preemptible=True, priority=20)
    urgent = submit(database, priority=50)
    dispatched(database)
    with database.write() as connection:
        preempting = job_row(database, urgent)
        connection.execute(update(jobs).where(jobs.c.id == preempting["id"]).values(state="cancelled"))
    end(database, key, WENT)
    [back] = dispatched(database)[0]
    assert kept(database) == {}
    with database.read() as connection:
        assert runs.get_run(connection, back.key.run_id)["number"] == 2


def test_a_run_that_ends_by_itself_is_not_asked(database: Database) -> None:
    _victim, key = place(database, 4, is_preemptible=True, priority=20)
    run_it(database, key)
    urgent = submit(database, 4, priority=80)
    [decision] = planned(database).plan.preempted
    end(database, key, DONE)
    with database.write() as connection:
        assert preemption.ask_to_go(connection, decision) == []
    assert asdict(decision)["for_job_id"] == urgent


def test_a_priority_below_which_all_may_be_preempted(database: Database, database_settings: Settings) -> None:
    _victim, key = start(database, 4, priority=29)
    submit(database, 4, priority=80)
    assert dispatched(database) == ([], [])
    set_policy(database, database_settings, preemptible_below="30")
    assert dispatched(database) == ([], [Asked(key.run_id, "w1")])
