"""The end of a run decides what becomes of its job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from dljobs.errors import DljobsError
from dljobs.service import jobs, runs
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.events import list_events
from dljobs.service.failures import MAX_LOST_RUNS, FailureClass
from dljobs.service.planned import make_plan
from dljobs.service.runs import Outcome
from dljobs.service.scheduling.reasons import ReasonCode
from dljobs.service.tables import leases

from .rows import (
    LEASE_S,
    end,
    job_row,
    live_leases,
    make_eligible,
    place,
    place_again,
    run_it,
    run_row,
    start,
    states,
)


def test_success_keeps_the_result(database: Database) -> None:
    job_id, key = start(database, num_devices=2)
    assert end(database, key, Outcome(None, "trained", result={"accuracy": 0.98})) == "succeeded"
    job, run = job_row(database, job_id), run_row(database, key.run_id)
    assert (job["state"], run["state"], job["failure_class"], run["failure_class"]) == ("succeeded",) * 2 + (None, None)
    assert json.loads(job["result_json"]) == json.loads(run["result_json"]) == {"accuracy": 0.98}
    assert run["created_at"] <= run["claimed_at"] <= run["started_at"] <= run["ended_at"] <= job["ended_at"]
    assert live_leases(database, key) == 0


@pytest.mark.parametrize("failure", [FailureClass.USER, FailureClass.DATA, FailureClass.TIME_LIMIT])
def test_a_users_fault_never_loops(database: Database, failure: FailureClass) -> None:
    job_id, key = start(database, max_retries=5)
    error = {"rank": 1, "exception": "ValueError", "message": "bad", "traceback": "…"}
    assert end(database, key, Outcome(failure, "ValueError: bad", error=error)) == "failed"
    job, run = job_row(database, job_id), run_row(database, key.run_id)
    assert (job["failure_class"], run["failure_class"], job["reason"]) == (failure, failure, "ValueError: bad")
    assert json.loads(run["error_json"]) == error
    assert (job["num_retries"], job["eligible_at"]) == (0, None)
    assert live_leases(database, key) == 0
    assert dispatch(database, lease_s=LEASE_S) == []


@pytest.mark.parametrize("failure", [FailureClass.OOM, FailureClass.KILLED, FailureClass.HUNG])
def test_a_fault_that_may_pass_is_tried_again_later(database: Database, failure: FailureClass) -> None:
    job_id, key = start(database, max_retries=2)
    waits = []
    for number in (1, 2):
        assert end(database, key, Outcome(failure, "it broke")) == "queued"
        job = job_row(database, job_id)
        assert (job["num_retries"], job["failure_class"], job["ended_at"]) == (number, None, None)
        assert states(database, key) == ("queued", "requeued")
        with database.read() as connection:
            reasons = make_plan(connection, lease_s=LEASE_S).reasons(job_id)
            moment = list_events(connection, job_id=job_id)[-1]["at"]
        assert [reason.code for reason in reasons] == [ReasonCode.BACKOFF]
        waits.append(job["eligible_at"] - moment)
        assert dispatch(database, lease_s=LEASE_S) == []
        key = place_again(database, job_id)
        run_it(database, key)
    assert waits[0] == pytest.approx(2, abs=0.5)
    assert waits[1] == pytest.approx(4, abs=0.5)
    assert end(database, key, Outcome(failure, "it broke")) == "failed"
    job = job_row(database, job_id)
    assert (job["failure_class"], job["num_runs"]) == (failure, 3)
    assert job["reason"] == "it broke (all 2 retries are used up)"


@pytest.mark.parametrize("failure", [FailureClass.NODE_LOST, FailureClass.PREEMPTED])
def test_a_fault_of_the_infrastructure_is_free(database: Database, failure: FailureClass) -> None:
    job_id, key = start(database, max_retries=0)
    assert end(database, key, Outcome(failure, "gone")) == "queued"
    job = job_row(database, job_id)
    assert (job["num_retries"], job["eligible_at"]) == (0, None)
    assert [placed.key.run_id for placed in dispatch(database, lease_s=LEASE_S)] != []


@pytest.mark.parametrize("failure", [FailureClass.DEVICE, FailureClass.STORAGE])
def test_a_device_or_a_disk_that_fails_uses_up_no_retry_but_time(database: Database, failure: FailureClass) -> None:
    job_id, key = start(database, max_retries=0)
    assert end(database, key, Outcome(failure, "broken")) == "queued"
    job = job_row(database, job_id)
    assert (job["num_retries"], job["num_lost"]) == (0, 1)
    assert job["eligible_at"] is not None
    assert run_row(database, key.run_id)["decision"] == "queued again, for free, after 2.0s"


def test_a_job_that_takes_every_worker_down_fails_with_that_history(database: Database) -> None:
    job_id, key = start(database, max_retries=0)
    for _ in range(MAX_LOST_RUNS - 1):
        assert end(database, key, Outcome(FailureClass.NODE_LOST, "worker w1 went silent")) == "queued"
        key = place_again(database, job_id)
        run_it(database, key)
    assert end(database, key, Outcome(FailureClass.DEVICE, "the GPU is lost")) == "failed"
    job = job_row(database, job_id)
    history = ", ".join(f"run {n} on w1 ({'node-lost' if n < 5 else 'device'})" for n in range(1, 6))
    assert job["reason"] == f"the GPU is lost (5 runs in a row were lost: {history})"
    assert run_row(database, key.run_id)["decision"] == f"the job failed: 5 runs in a row were lost: {history}"


def test_a_run_that_stored_a_checkpoint_has_got_somewhere(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    (tmp_path / "it").write_bytes(b"state")
    for _ in range(MAX_LOST_RUNS + 1):
        ArtifactStore(database).put(key, Description("checkpoint", "step-1"), tmp_path / "it")
        assert end(database, key, Outcome(FailureClass.NODE_LOST, "gone")) == "queued"
        assert job_row(database, job_id)["num_lost"] == 1
        key = place_again(database, job_id)
        run_it(database, key)


def test_a_run_keeps_what_its_class_was_judged_by_and_what_followed(database: Database) -> None:
    _job, key = start(database, max_retries=1)
    evidence = {"exits": [{"rank": 0, "how": "SIGKILL"}], "out_of_memory_kills": 1}
    end(database, key, Outcome(FailureClass.OOM, "the host ran out of memory", evidence=evidence))
    run = run_row(database, key.run_id)
    assert json.loads(run["evidence_json"]) == evidence
    assert run["decision"] == "queued again, retry 1 of 1, after 2.0s"


def test_a_request_for_a_checkpoint_stands_until_it_is_answered(database: Database) -> None:
    job_id, key = start(database)
    with database.write() as connection:
        asked_at = runs.request_checkpoint(connection, job_id, actor="ada")["checkpoint_requested_at"]
        runs.answer_checkpoint_request(connection, key, asked_at - 1)  # an earlier one
    assert run_row(database, key.run_id)["checkpoint_requested_at"] == asked_at
    with database.write() as connection:
        runs.answer_checkpoint_request(connection, key, asked_at)
    assert run_row(database, key.run_id)["checkpoint_requested_at"] is None
    end(database, key, Outcome(None, "trained"))
    with database.write() as connection, pytest.raises(DljobsError, match="only a job that trains"):
        runs.request_checkpoint(connection, job_id, actor="ada")


def test_losses_count_in_a_row_only(database: Database) -> None:
    job_id, key = start(database)
    for failure, num_lost in [
        (FailureClass.NODE_LOST, 1),
        (FailureClass.NODE_LOST, 2),
        (FailureClass.PREEMPTED, 0),
        (FailureClass.NODE_LOST, 1),
        (FailureClass.OOM, 0),
    ]:
        assert end(database, key, Outcome(failure, "x")) == "queued"
        assert job_row(database, job_id)["num_lost"] == num_lost
        key = place_again(database, job_id)
        run_it(database, key)


@pytest.mark.parametrize("failure", list(FailureClass))
def test_a_job_whose_end_was_asked_for_is_cancelled_however_its_run_ends(
    database: Database, failure: FailureClass
) -> None:
    job_id, key = start(database)
    with database.write() as connection:
        jobs.request_cancel(connection, job_id, actor="ada")
    assert end(database, key, Outcome(failure, "stopped")) == "cancelled"
    assert states(database, key) == ("cancelled", "cancelled")
    assert job_row(database, job_id)["failure_class"] == "cancelled"
    assert live_leases(database, key) == 0


def test_a_run_that_succeeded_before_the_cancel_reached_it_has_succeeded(database: Database) -> None:
    job_id, key = start(database)
    with database.write() as connection:
        jobs.request_cancel(connection, job_id, actor="ada")
    assert end(database, key, Outcome(None, "trained")) == "succeeded"


@pytest.mark.parametrize("failure", [FailureClass.USER, FailureClass.OOM, FailureClass.NODE_LOST])
def test_a_run_can_fail_before_its_ranks_have_started(database: Database, failure: FailureClass) -> None:
    _job, key = place(database)
    end(database, key, Outcome(failure, "no start"))
    assert states(database, key)[1] == ("failed" if failure is FailureClass.USER else "requeued")
    assert live_leases(database, key) == 0


def test_a_success_without_a_start_is_refused_and_changes_nothing(database: Database) -> None:
    _job, key = place(database)
    with pytest.raises(DljobsError, match="cannot become succeeded"):
        end(database, key, Outcome(None, "trained"))
    assert states(database, key) == ("starting", "starting")
    assert live_leases(database, key) == 1


def test_what_a_users_program_says_can_always_be_stored(database: Database) -> None:
    """A run whose error text the database refused could never end."""
    nasty = "ValueError: a\0b \udc80 \ud83d ✗ " + "x" * 100_000
    error = {"rank": 0, "message": nasty, "traceback": nasty}
    job_id, key = start(database)
    assert end(database, key, Outcome(FailureClass.USER, nasty, error=error)) == "failed"
    job, run = job_row(database, job_id), run_row(database, key.run_id)
    assert job["reason"].startswith("ValueError: a")
    assert len(job["reason"]) >= 100_000
    assert json.loads(run["error_json"])["rank"] == 0


def test_a_result_that_is_no_number_is_still_json(database: Database) -> None:
    _job, key = start(database)
    end(database, key, Outcome(None, "trained", result={"loss": float("nan"), "deep": [{"x": float("inf")}], "n": 1}))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    stored = json.loads(run_row(database, key.run_id)["result_json"], parse_constant=refuse)
    assert stored == {"loss": None, "deep": [{"x": None}], "n": 1}


def test_steps_beyond_32_bits_are_counted(database: Database) -> None:
    _job, key = start(database)
    with database.write() as connection:
        runs.fenced_update(connection, key, step=10**12 - 1, total_steps=10**12)
    assert run_row(database, key.run_id)["total_steps"] == 10**12


def test_first_start_of_a_job_is_kept_over_its_runs(database: Database) -> None:
    job_id, key = start(database)
    started_at = job_row(database, job_id)["started_at"]
    end(database, key, Outcome(FailureClass.PREEMPTED, "drain"))
    run_it(database, place_again(database, job_id))
    assert job_row(database, job_id)["started_at"] == started_at
    with database.read() as connection:
        assert [run["number"] for run in runs.list_runs(connection, [job_id])] == [1, 2]
        assert len(connection.execute(select(leases.c.id)).all()) == 2
    make_eligible(database, job_id)
