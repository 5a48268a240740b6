"""Dispatch: what the scheduler decides becomes rows, in one transaction, under one lock."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from dljobs.service import jobs, leases, registration, runs
from dljobs.service.database import Database, Lock, wait_for_lock
from dljobs.service.dispatch import dispatch
from dljobs.service.events import list_events
from dljobs.service.failures import FailureClass
from dljobs.service.planned import make_plan
from dljobs.service.runs import Outcome
from dljobs.service.scheduling.reasons import ReasonCode
from dljobs.service.states import WorkerState
from tests.waiting import wait_until

from .rows import LEASE_S, add_worker, end, job_row, live_leases, place, place_again, start, states, submit


def place_all(database: Database) -> dict[int, str]:
    """Dispatch; returns the worker of each job that was placed."""
    placed = dispatch(database, lease_s=LEASE_S)
    with database.read() as connection:
        return {runs.get_run(connection, one.key.run_id)["job_id"]: one.worker_name for one in placed}


def test_a_placement_is_written_whole(database: Database) -> None:
    job_id, key = place(database, num_devices=3)
    job = job_row(database, job_id)
    assert (job["state"], job["num_runs"]) == ("starting", 1)
    assert states(database, key) == ("starting", "starting")
    assert live_leases(database, key) == 3
    with database.read() as connection:
        [moved] = [row for row in list_events(connection, job_id=job_id) if row["to_state"] == "starting"]
        assert [row["position"] for row in leases.placement(connection, key.run_id)] == [0, 1, 2]
        assert runs.get_run(connection, key.run_id)["number"] == 1
    assert (moved["actor"], moved["run_id"], moved["reason"]) == ("scheduler", key.run_id, "run 1 placed on 3 devices")


def test_the_plan_that_explains_is_the_plan_that_acts(database: Database) -> None:
    add_worker(database, "w1", 4)
    add_worker(database, "w2", 2)
    fits, blocked = submit(database, 3), submit(database, 4)
    # The first of these two goes where the blocked job does not; the other would keep it waiting.
    elsewhere, behind = submit(database, 2), submit(database, 1)
    held, never = submit(database, 1, held=True), submit(database, 5)
    with database.read() as connection:
        planned = make_plan(connection, lease_s=LEASE_S)
    assert sorted(planned.worker_names.values()) == ["w1", "w2"]
    assert [placed.job_id for placed in planned.placed] == [fits, elsewhere]
    waiting = (blocked, behind, held, never)
    codes = {job_id: [reason.code for reason in planned.reasons(job_id)] for job_id in waiting}
    assert codes == {
        blocked: [ReasonCode.RESOURCES],
        behind: [ReasonCode.PRIORITY],
        held: [ReasonCode.HELD, ReasonCode.PRIORITY],
        never: [ReasonCode.NEVER_FITS],
    }
    assert place_all(database) == {fits: "w1", elsewhere: "w2"}
    assert place_all(database) == {}


def test_devices_come_back_when_a_run_ends(database: Database) -> None:
    first, key = start(database, num_devices=4)
    second = submit(database, 4)
    assert place_all(database) == {}
    end(database, key, Outcome(None, "trained"))
    assert place_all(database) == {second: "w1"}
    assert job_row(database, first)["state"] == "succeeded"


def test_a_draining_worker_gets_nothing_and_keeps_what_it_has(database: Database) -> None:
    worker = add_worker(database, "w1", 4)
    running, key = start(database)
    with database.write() as connection:
        registration.set_state(connection, worker, WorkerState.DRAINING, reason="SIGTERM")
    waiting = submit(database)
    assert place_all(database) == {}
    assert states(database, key) == ("running", "running")
    with database.read() as connection:
        [reason] = make_plan(connection, lease_s=LEASE_S).reasons(waiting)
    assert reason.code == ReasonCode.NO_WORKERS
    end(database, key, Outcome(FailureClass.PREEMPTED, "drained"))
    assert place_all(database) == {}
    add_worker(database, "w2", 1)
    assert place_all(database) == {running: "w2"}


def test_devices_that_changed_hands_stay_taken_until_their_lease_is_over(database: Database) -> None:
    _job, key = start(database, num_devices=2)
    again = add_worker(database, "w1", 4, is_alive=False)
    waiting = submit(database, 4)
    assert place_all(database) == {}
    end(database, key, Outcome(None, "trained"))
    assert place_all(database) == {waiting: "w1"}
    assert again.worker_id


def test_runs_of_a_job_are_numbered(database: Database) -> None:
    job_id, key = place(database)
    for number in (2, 3):
        end(database, key, Outcome(FailureClass.PREEMPTED, "drained"))
        key = place_again(database, job_id)
        with database.read() as connection:
            assert [run["number"] for run in runs.list_runs(connection, [job_id])] == list(range(1, number + 1))


def test_whoever_finds_the_lock_taken_returns_or_waits_but_never_plans(database: Database) -> None:
    add_worker(database)
    job_id = submit(database)
    release = threading.Event()
    holds = threading.Event()

    def hold() -> None:
        with database.write() as connection:
            wait_for_lock(connection, Lock.SCHEDULING)
            holds.set()
            release.wait(10)

    with ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        wait_until(holds.is_set, 5, "the lock is held")
        late = pool.submit(dispatch, database, lease_s=LEASE_S)
        release.set()
        holding.result(10)
        assert len(late.result(10)) == 1, "it waited and saw the job itself"
    with database.read() as connection:
        assert len(runs.list_runs(connection, [job_id])) == 1
        assert jobs.get_job(connection, job_id)["state"] == "starting"
