"""Leases: they are renewed together, they run out by the database's clock, and a job whose worker is lost goes on."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import select

from dljobs.service import leases, offers, sweep
from dljobs.service.clock import read_now
from dljobs.service.database import Database
from dljobs.service.events import list_events
from dljobs.service.settings import Settings
from dljobs.service.tables import leases as lease_table

from .racing import race
from .rows import (
    LEASE_S,
    add_worker,
    end,
    job_row,
    let_lease_run_out,
    live_leases,
    make_eligible,
    place,
    place_again,
    run_it,
    run_row,
    start,
    states,
    submit,
)


def expire(database: Database) -> int:
    return sweep.expire_leases(database, actor="w2")


def renew(database: Database, *tokens: str, worker: str = "w1") -> set[str]:
    with database.write() as connection:
        ids = {row["name"]: row["id"] for row in offers.list_workers(connection)}
        return leases.renew(connection, ids[worker], tokens, LEASE_S)


def test_a_lease_ends_by_the_databases_clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is a day off takes nothing from anyone, and keeps nothing too long."""
    true_time = time.time()
    for wrong in (true_time + 86400, true_time - 86400):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda wrong=wrong: wrong)
            job_id, key = start(database)
            renew(database, key.token)
            with database.read() as connection:
                query = select(lease_table).where(lease_table.c.run_id == key.run_id)
                lease = connection.execute(query).mappings().one()
                moment = read_now(connection)
            assert abs(moment - true_time) < 30
            assert moment - 5 < lease["acquired_at"] <= moment
            assert moment + LEASE_S - 5 < lease["expires_at"] <= moment + LEASE_S
            assert abs(job_row(database, job_id)["submitted_at"] - moment) < 5
            assert expire(database) == 0


def test_renewal_of_all_leases_of_all_runs(database: Database) -> None:
    _job, first = start(database, num_devices=2)
    _job, second = start(database, num_devices=1)
    _job, over = start(database)
    from dljobs.service.runs import Outcome

    end(database, over, Outcome(None, "trained"))
    for key in (first, second):
        let_lease_run_out(database, key)
    assert renew(database, first.token, second.token, over.token, "unknown") == {first.token, second.token}
    assert expire(database) == 0
    assert renew(database) == set()


def test_a_run_whose_lease_ran_out_goes_back_in_the_queue(database: Database) -> None:
    job_id, key = start(database, num_devices=2)
    other_job, other = start(database)
    assert expire(database) == 0
    let_lease_run_out(database, key)
    assert expire(database) == 1
    assert expire(database) == 0
    assert states(database, key) == ("queued", "requeued")
    assert states(database, other) == ("running", "running")
    assert live_leases(database, key) == 0
    assert "worker w1 went silent" in run_row(database, key.run_id)["reason"]
    assert run_row(database, key.run_id)["failure_class"] == "node-lost"
    job = job_row(database, job_id)
    assert (job["num_lost"], job["num_retries"], job["eligible_at"]) == (1, 0, None)
    assert renew(database, key.token) == set()
    with database.read() as connection:
        last = list_events(connection, job_id=job_id)[-1]
    assert (last["actor"], last["to_state"]) == ("w2", "queued")
    again = place_again(database, job_id)
    assert run_row(database, again.run_id)["number"] == 2
    assert other_job


def test_one_lease_of_several_that_ran_out_ends_the_run(database: Database) -> None:
    _job, key = start(database, num_devices=3)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET expires_at = 0 WHERE device_id = 2")
    assert expire(database) == 1
    assert live_leases(database, key) == 0


def test_a_run_that_nobody_claimed_runs_out_too(database: Database) -> None:
    _job, key = place(database)
    let_lease_run_out(database, key)
    assert expire(database) == 1
    assert states(database, key) == ("queued", "requeued")


def test_a_job_that_loses_worker_after_worker_fails_with_its_history(database: Database) -> None:
    job_id, key = start(database)
    for _ in range(4):
        let_lease_run_out(database, key)
        assert expire(database) == 1
        assert job_row(database, job_id)["state"] == "queued"
        key = place_again(database, job_id)
        run_it(database, key)
    let_lease_run_out(database, key)
    expire(database)
    job = job_row(database, job_id)
    assert (job["state"], job["failure_class"], job["num_lost"]) == ("failed", "node-lost", 5)
    assert "5 runs in a row were lost" in job["reason"]
    with database.read() as connection:
        ends = [row for row in list_events(connection, job_id=job_id) if row["kind"] == "run"]
    assert [row["to_state"] for row in ends if row["to_state"] != "running"] == ["requeued"] * 4 + ["failed"]


def sweep_it(url: str, name: str) -> int:
    return sweep.expire_leases(Database(url), actor=name)


def test_many_sweeps_at_once_end_each_run_once(database: Database, database_settings: Settings) -> None:
    add_worker(database, num_devices=40)
    keys = [start(database)[1] for _ in range(20)]
    for key in keys:
        let_lease_run_out(database, key)
    assert sum(race(sweep_it, *[(database_settings.sqlalchemy_url, f"w{number}") for number in range(4)])) == 20
    assert {states(database, key) for key in keys} == {("queued", "requeued")}
    with database.read() as connection:
        requeues = [row for row in list_events(connection, limit=1000) if row["to_state"] == "requeued"]
    assert len(requeues) == 20


@pytest.mark.parametrize("where", ["expired_parts", "take_notices"])
def test_expiry_never_beats_a_renewal_that_came_first(
    database: Database, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A renewal arrives at the worst moment of the sweep: it is either refused, or the run goes on."""
    _job, key = start(database)
    let_lease_run_out(database, key)
    module = leases if where == "expired_parts" else sweep.ends
    true = getattr(module, where)
    calls = 0
    with ThreadPoolExecutor() as pool:
        renewals: list[Future[set[str]]] = []

        def interrupt() -> None:
            renewals.append(pool.submit(renew, database, key.token))
            wait(renewals, timeout=0.3)  # done by then, unless it rightly waits for the sweep's lock

        def late(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if where == "take_notices" and calls == 1:
                interrupt()
            answer = true(*args, **kwargs)
            if where == "expired_parts" and calls == 2:  # the first is only a look without a lock
                interrupt()
            return answer

        monkeypatch.setattr(module, where, late)
        num_ended = expire(database)
        renewed = renewals[0].result(10)
    if renewed:
        assert num_ended == 0
        assert states(database, key) == ("running", "running")
        assert live_leases(database, key) == 1
    else:
        assert num_ended == 1
        assert states(database, key) == ("queued", "requeued")


def test_a_worker_that_restarts_loses_what_it_ran(database: Database) -> None:
    worker = add_worker(database)
    keys = [start(database)[1], place(database)[1]]
    again = add_worker(database, is_alive=False)
    assert again.worker_id == worker.worker_id
    assert sweep.end_runs_of_restarted(database, again.worker_id, actor="w1") == 2
    assert {states(database, key) for key in keys} == {("queued", "requeued")}
    assert sweep.end_runs_of_restarted(database, again.worker_id, actor="w1") == 0


def test_the_placement_of_a_run_outlives_its_leases(database: Database) -> None:
    from dljobs.service.runs import Outcome

    _job, key = start(database, num_devices=3)
    with database.read() as connection:
        before = [row["uuid"] for row in leases.placement(connection, key.run_id)]
        assert len(offers.held_devices(connection)) == 3
    end(database, key, Outcome(None, "trained"))
    with database.read() as connection:
        assert [row["uuid"] for row in leases.placement(connection, key.run_id)] == before
        assert offers.held_devices(connection) == []
    assert len(before) == 3
    make_eligible(database, submit(database))
