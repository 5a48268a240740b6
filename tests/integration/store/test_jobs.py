"""Jobs in the database: ids, idempotency, and every move from state to state."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import Table, func, select, update

from dljobs.errors import DljobsError, NotFound
from dljobs.service import jobs, new_jobs, runs
from dljobs.service.database import Database
from dljobs.service.dispatch import Dispatched, dispatch
from dljobs.service.events import list_events
from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome
from dljobs.service.settings import Settings
from dljobs.service.states import ENDED_JOBS, JOB_TRANSITIONS, LIVE_RUNS, RUN_TRANSITIONS, JobState, RunState
from dljobs.service.tables import jobs as job_table
from dljobs.service.tables import runs as run_table

from .racing import race
from .rows import LEASE_S, add_worker, end, job_row, live_leases, new_job, place, run_row, start, states, submit


def test_a_rollback_leaves_no_job(database: Database) -> None:
    ids = [submit(database)]
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        new_jobs.insert_job(connection, new_job())
        _ = 1 / 0
    ids.append(submit(database))
    assert ids == sorted(set(ids))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(job_table)).scalar() == 2


# Submission


def test_a_job_is_inserted_with_an_event(database: Database) -> None:
    job_id = submit(database, num_devices=2, tags=("a", "b"), priority=70)
    job = job_row(database, job_id)
    assert (job["state"], job["num_devices"], job["tags_json"], job["priority"]) == ("queued", 2, '["a", "b"]', 70)
    with database.read() as connection:
        [event] = list_events(connection, job_id=job_id)
    assert (event["actor"], event["to_state"], event["from_state"]) == ("ada", "queued", None)
    assert abs(event["at"] - job["submitted_at"]) < 1


def test_the_same_idempotency_key_makes_one_job(database: Database) -> None:
    with database.write() as connection:
        first = new_jobs.insert_job(connection, new_job(idempotency_key="k"))
        again = new_jobs.insert_job(connection, new_job(idempotency_key="k"))
        others = new_jobs.insert_job(connection, new_job(idempotency_key="k", user="bob"))
        without = [new_jobs.insert_job(connection, new_job())[1] for _ in range(2)]
    assert first[1]
    assert again == (first[0], False)
    assert others[1]
    assert without == [True, True]


def submit_with_key(url: str, key: str) -> tuple[int, bool]:
    database = Database(url)
    with database.write() as connection:
        return new_jobs.insert_job(connection, new_job(idempotency_key=key))


def test_a_race_for_an_idempotency_key_makes_one_job(database: Database, database_settings: Settings) -> None:
    url = database_settings.sqlalchemy_url
    results = race(submit_with_key, *[(url, f"key-{number // 2}") for number in range(8)])
    ids = [job_id for job_id, _created in results]
    assert len(set(ids)) == 4
    assert sum(created for _id, created in results) == 4
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(job_table)).scalar() == 4
        assert len(list_events(connection)) == 4


# Transitions


@pytest.mark.parametrize("was", JobState)
def test_every_move_of_a_job(database: Database, was: JobState) -> None:
    for to in JobState:
        job_id = submit(database)
        set_state(database, job_table, job_id, was)
        before = job_row(database, job_id)
        if to in JOB_TRANSITIONS[was]:
            with database.write() as connection:
                assert jobs.move_job(connection, job_id, to, actor="bob", reason="because") == was
                event = list_events(connection, job_id=job_id)[-1]
            after = job_row(database, job_id)
            assert (after["state"], after["reason"]) == (to, "because")
            assert (after["ended_at"] is not None) == (to in ENDED_JOBS)
            assert (event["from_state"], event["to_state"]) == (was, to)
            assert (event["actor"], event["reason"]) == ("bob", "because")
            assert event["at"] >= before["submitted_at"]
        else:
            refused = pytest.raises(DljobsError, match=f"job {job_id} is {was}: it cannot become {to}")
            with refused, database.write() as connection:
                jobs.move_job(connection, job_id, to, actor="bob", reason="because")
            assert job_row(database, job_id) == before
            with database.read() as connection:
                assert len(list_events(connection, job_id=job_id)) == 1


@pytest.mark.parametrize("was", RunState)
def test_every_move_of_a_run(database: Database, was: RunState) -> None:
    job_id, key = place(database)
    for to in RunState:
        set_state(database, run_table, key.run_id, was)
        before = run_row(database, key.run_id)
        with database.read() as connection:
            num_events = len(list_events(connection))
        if to in RUN_TRANSITIONS[was]:
            with database.write() as connection:
                runs.move_run(connection, key.run_id, to, actor="w1", reason="because")
                event = list_events(connection)[-1]
            after = run_row(database, key.run_id)
            assert (after["state"], after["reason"]) == (to, "because")
            assert (after["ended_at"] is not None) == (to not in LIVE_RUNS)
            assert (event["from_state"], event["to_state"], event["job_id"]) == (was, to, job_id)
            assert (event["run_id"], event["worker_id"]) == (key.run_id, after["worker_id"])
            assert (event["actor"], event["reason"]) == ("w1", "because")
        else:
            with pytest.raises(DljobsError, match="it cannot become"), database.write() as connection:
                runs.move_run(connection, key.run_id, to, actor="w1", reason="because")
            assert run_row(database, key.run_id) == before
            with database.read() as connection:
                assert len(list_events(connection)) == num_events


def set_state(database: Database, table: Table, row_id: int, state: str) -> None:
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == row_id).values(state=state, ended_at=None))


def test_a_whole_life_leaves_its_history(database: Database) -> None:
    job_id, key = start(database)
    end(database, key, Outcome(None, "trained", result={"accuracy": 0.98}))
    with database.read() as connection:
        history = list_events(connection, job_id=job_id)
    job_moves = [(row["from_state"], row["to_state"]) for row in history if row["kind"] in ("submitted", "job")]
    assert job_moves == [
        (None, "queued"),
        ("queued", "starting"),
        ("starting", "running"),
        ("running", "succeeded"),
    ]
    assert all(row["actor"] and row["reason"] and row["at"] for row in history)
    assert [row["at"] for row in history] == sorted(row["at"] for row in history)
    job = job_row(database, job_id)
    assert job["submitted_at"] <= job["started_at"] <= job["ended_at"]


# What users ask for


def test_hold_and_release(database: Database) -> None:
    job_id = submit(database)
    with database.write() as connection:
        jobs.hold_job(connection, job_id, actor="ada")
    assert job_row(database, job_id)["state"] == "held"
    with database.write() as connection:
        jobs.hold_job(connection, job_id, actor="ada", release=True)
    assert job_row(database, job_id)["state"] == "queued"


def test_only_a_held_job_can_be_released(database: Database) -> None:
    job_id, key = start(database)
    for state in set(JobState) - {JobState.HELD}:
        set_state(database, job_table, job_id, state)
        with pytest.raises(DljobsError), database.write() as connection:
            jobs.hold_job(connection, job_id, actor="ada", release=True)
        assert states(database, key) == (state, RunState.RUNNING)


def test_only_a_queued_job_can_be_held(database: Database) -> None:
    job_id = submit(database)
    for state in set(JobState) - {JobState.QUEUED}:
        set_state(database, job_table, job_id, state)
        with pytest.raises(DljobsError), database.write() as connection:
            jobs.hold_job(connection, job_id, actor="ada")


def test_cancel_of_a_waiting_job_is_done_at_once(database: Database) -> None:
    for held in (False, True):
        job_id = submit(database, held=held)
        with database.write() as connection:
            assert jobs.request_cancel(connection, job_id, actor="ada") == "cancelled"
        job = job_row(database, job_id)
        assert (job["state"], job["reason"]) == ("cancelled", "cancelled by ada")
        assert job["ended_at"] is not None


def test_cancel_of_a_running_job_is_asked_for_once(database: Database) -> None:
    job_id, key = start(database)
    for _ in range(2):
        with database.write() as connection:
            assert jobs.request_cancel(connection, job_id, actor="ada") == "running"
    assert states(database, key) == ("running", "running")
    with database.read() as connection:
        assert [row["kind"] for row in list_events(connection, job_id=job_id)].count("cancel") == 1
        assert runs.live_runs_of(connection, runs.get_run(connection, key.run_id)["worker_id"])[0][
            "cancel_requested_at"
        ]


def test_cancel_of_an_ended_job_is_refused(database: Database) -> None:
    job_id, key = start(database)
    end(database, key, Outcome(None, "trained"))
    with pytest.raises(DljobsError, match="already ended: it is succeeded"), database.write() as connection:
        jobs.request_cancel(connection, job_id, actor="ada")
    with pytest.raises(NotFound), database.write() as connection:
        jobs.request_cancel(connection, 999, actor="ada")


def test_a_cancel_that_meets_the_scheduler_orphans_no_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler places the job between the look at its state and the move to `cancelled`, if it can."""
    add_worker(database)
    job_id, other_id = submit(database), submit(database)
    with ThreadPoolExecutor() as pool:
        placing: list[Future[list[Dispatched]]] = []
        move_job = jobs.move_job

        def move_late(*args: Any, **kwargs: Any) -> JobState:
            monkeypatch.setattr(jobs, "move_job", move_job)
            placing.append(pool.submit(dispatch, database, lease_s=LEASE_S))
            wait(placing, timeout=0.3)  # done by then, unless it rightly waits for our lock
            return move_job(*args, **kwargs)

        monkeypatch.setattr(jobs, "move_job", move_late)
        with database.write() as connection:
            assert jobs.request_cancel(connection, job_id, actor="ada") == "cancelled"
        placed = placing[0].result(10)
    with database.read() as connection:
        assert not runs.list_runs(connection, [job_id])
        assert [run["id"] for run in runs.list_runs(connection, [other_id])] == [one.key.run_id for one in placed]
    assert job_row(database, job_id)["state"] == "cancelled"
    assert job_row(database, other_id)["state"] == "starting"


def test_retry_begins_a_new_count(database: Database) -> None:
    job_id, key = start(database, max_retries=0)
    assert end(database, key, Outcome(FailureClass.OOM, "out of memory")) == "failed"
    with database.write() as connection:
        jobs.retry_job(connection, job_id, actor="bob", fresh=False)
    job = job_row(database, job_id)
    assert (job["state"], job["num_retries"], job["num_lost"]) == ("queued", 0, 0)
    assert (job["failure_class"], job["ended_at"], job["first_resumable_run"]) == (None, None, 1)
    assert "bob" in job["reason"]


def test_retry_fresh_resumes_from_nothing_that_was(database: Database) -> None:
    job_id, key = start(database)
    end(database, key, Outcome(FailureClass.USER, "ValueError"))
    with database.write() as connection:
        jobs.retry_job(connection, job_id, actor="bob", fresh=True)
    assert job_row(database, job_id)["first_resumable_run"] == 2


def test_retry_of_a_cancelled_job_runs_it(database: Database) -> None:
    job_id, key = start(database)
    with database.write() as connection:
        jobs.request_cancel(connection, job_id, actor="ada")
    assert end(database, key, Outcome(FailureClass.CANCELLED, "cancelled by ada")) == "cancelled"
    assert live_leases(database, key) == 0
    with database.write() as connection:
        jobs.retry_job(connection, job_id, actor="ada", fresh=False)
    assert job_row(database, job_id)["cancel_requested_at"] is None


def test_only_a_failed_or_cancelled_job_is_retried(database: Database) -> None:
    job_id = submit(database)
    for state in set(JobState) - {JobState.FAILED, JobState.CANCELLED}:
        set_state(database, job_table, job_id, state)
        with pytest.raises(DljobsError, match="only a failed or cancelled job"), database.write() as connection:
            jobs.retry_job(connection, job_id, actor="ada", fresh=False)
        assert job_row(database, job_id)["state"] == state
