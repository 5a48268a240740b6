"""Sets in the database: all jobs or none, what is asked of all of them at once, and what waits for them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from sqlalchemy import func, select, update

from dljobs.errors import DljobsError, NotFound, UsageError
from dljobs.service import jobs, new_jobs, sets, standing
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.events import list_events
from dljobs.service.failures import FailureClass
from dljobs.service.planned import make_plan
from dljobs.service.runs import Outcome
from dljobs.service.scheduling.reasons import ReasonCode
from dljobs.service.scheduling.rows import Condition
from dljobs.service.settings import Settings
from dljobs.service.states import JobState
from dljobs.service.tables import jobs as job_table
from dljobs.service.tables import sets as set_table

from .racing import race
from .rows import LEASE_S, add_worker, end, job_row, new_job, new_set, run_it, submit, submit_set


def move_all(database: Database, job_ids: list[int], state: JobState) -> None:
    """Let jobs be in a state, however they came there."""
    with database.write() as connection:
        connection.execute(update(job_table).where(job_table.c.id.in_(job_ids)).values(state=state))


def test_a_set_is_a_row_and_its_jobs(database: Database) -> None:
    alone = submit(database)
    set_id, members = submit_set(database, 3, first_index=5, name="seeds", max_parallel=2)
    assert len(set(members) | {alone}) == 4
    rows = [job_row(database, job_id) for job_id in members]
    assert [row["set_index"] for row in rows] == [5, 6, 7]
    assert [json.loads(row["point_json"]) for row in rows] == [{"seed": 5}, {"seed": 6}, {"seed": 7}]
    assert [json.loads(row["spec_json"])["training"]["seed"] for row in rows] == [5, 6, 7]
    assert {row["submitted_at"] for row in rows} == {rows[0]["submitted_at"]}
    with database.read() as connection:
        row = sets.get_set(connection, set_id)
        assert (row["name"], row["user"], row["num_jobs"], row["max_parallel"]) == ("seeds", "ada", 3, 2)
        assert standing.count_states(connection, [set_id])[set_id][JobState.QUEUED] == 3
        assert [event["kind"] for event in list_events(connection, job_id=members[1])] == ["submitted"]
        with pytest.raises(NotFound, match="there is no set s99"):
            sets.get_set(connection, 99)


def test_a_large_set_is_written_whole(database: Database) -> None:
    number = 2 * sets.ROWS_AT_ONCE + 1
    _, members = submit_set(database, number)
    assert len(members) == number
    assert [job_row(database, members[index])["set_index"] for index in (0, -1)] == [0, number - 1]


def test_a_set_is_written_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        sets.insert_set(connection, new_set(3))
        _ = 1 / 0
    with pytest.raises(NotFound), database.write() as connection:
        sets.insert_set(connection, new_set(3, after=(("77", Condition.OK),)))
    with database.read() as connection:
        for table in (job_table, set_table):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0


def test_an_idempotency_key_makes_one_set(database: Database) -> None:
    with database.write() as connection:
        first = sets.insert_set(connection, new_set(3, idempotency_key="k"))
        assert first[1]
        assert sets.insert_set(connection, new_set(3, idempotency_key="k")) == (first[0], False)
        assert sets.insert_set(connection, new_set(1, idempotency_key="k", user="bob"))[1]
        assert connection.execute(select(func.count()).select_from(job_table)).scalar_one() == 4


def test_a_key_is_that_of_a_job_or_of_a_set(database: Database) -> None:
    job_id = submit(database, idempotency_key="job")
    set_id, _ = submit_set(database, 2, idempotency_key="set")
    with database.write() as connection:
        with pytest.raises(UsageError, match=f"'job' was used before, for job {job_id}"):
            sets.insert_set(connection, new_set(2, idempotency_key="job"))
        with pytest.raises(UsageError, match=f"'set' was used before, for s{set_id}"):
            new_jobs.insert_job(connection, new_job(idempotency_key="set"))


def submit_under_key(url: str) -> tuple[int, bool]:
    with Database(url).write() as connection:
        return sets.insert_set(connection, new_set(5, idempotency_key="k"))


def test_several_submit_a_set_under_one_key_at_once(database: Database, database_settings: Settings) -> None:
    found = race(submit_under_key, *[(database_settings.sqlalchemy_url,)] * 4)
    assert len({set_id for set_id, _ in found}) == 1
    assert sorted(created for _, created in found) == [False, False, False, True]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(job_table)).scalar_one() == 5


# What is asked of all jobs


def test_cancel_ends_what_waits_and_asks_what_runs(database: Database) -> None:
    add_worker(database, num_devices=2)
    set_id, members = submit_set(database, 5)
    placed = dispatch(database, lease_s=LEASE_S)
    assert len(placed) == 2
    with database.write() as connection:
        live = sets.live_runs(connection, set_id=set_id)
        assert sets.cancel_set(connection, set_id, actor="ada") == (3, 2)
    rows = [job_row(database, job_id) for job_id in members]
    assert sorted(row["state"] for row in rows) == ["cancelled"] * 3 + ["starting"] * 2
    assert all((row["cancel_requested_at"] is not None) == (row["state"] == "starting") for row in rows)
    assert sorted(live) == sorted(("w1", each.key.run_id) for each in placed)
    for each in placed:
        end(database, each.key, Outcome(FailureClass.CANCELLED, "asked"))
    with database.write() as connection, pytest.raises(DljobsError, match="have already ended"):
        sets.cancel_set(connection, set_id, actor="ada")


def test_a_cancelled_member_leaves_an_event(database: Database) -> None:
    set_id, members = submit_set(database, 2)
    with database.write() as connection:
        sets.cancel_set(connection, set_id, actor="bob")
        last = list_events(connection, job_id=members[0])[-1]
    assert (last["from_state"], last["to_state"], last["actor"]) == ("queued", "cancelled", "bob")


def test_hold_and_release(database: Database) -> None:
    add_worker(database, num_devices=1)
    set_id, members = submit_set(database, 3)
    dispatch(database, lease_s=LEASE_S)
    with database.write() as connection:
        assert sets.hold_set(connection, set_id, actor="ada") == 2
        with pytest.raises(DljobsError, match=f"no job of s{set_id} is queued"):
            sets.hold_set(connection, set_id, actor="ada")
    assert [job_row(database, job_id)["state"] for job_id in members] == ["starting", "held", "held"]
    with database.write() as connection:
        assert sets.hold_set(connection, set_id, actor="ada", release=True) == 2
    assert [job_row(database, job_id)["state"] for job_id in members] == ["starting", "queued", "queued"]


def cancel_or_schedule(url: str, set_id: int | None) -> None:
    database = Database(url)
    if set_id is None:
        dispatch(database, lease_s=LEASE_S)
        return
    with suppress(DljobsError), database.write() as connection:
        sets.cancel_set(connection, set_id, actor="ada")


def test_a_set_is_cancelled_while_it_is_scheduled(database: Database, database_settings: Settings) -> None:
    add_worker(database, num_devices=8)
    set_id, members = submit_set(database, 40)
    url = database_settings.sqlalchemy_url
    race(cancel_or_schedule, (url, set_id), (url, None), (url, set_id), (url, None))
    rows = [job_row(database, job_id) for job_id in members]
    assert all(row["state"] == "cancelled" or row["cancel_requested_at"] for row in rows)


def test_what_is_retried(database: Database) -> None:
    add_worker(database, num_devices=4)
    set_id, members = submit_set(database, 4, max_retries=0)
    placed = dispatch(database, lease_s=LEASE_S)
    with database.write() as connection:
        jobs.request_cancel(connection, members[1], actor="ada")
        connection.execute(update(job_table).where(job_table.c.id == members[2]).values(prune_reason="fell behind"))
    for each in placed:
        run_it(database, each.key)
    failures = (FailureClass.USER, FailureClass.CANCELLED, FailureClass.PRUNED, None)
    for each, failure in zip(placed, failures, strict=True):
        end(database, each.key, Outcome(failure, "it ended"))
    rows = [job_row(database, job_id) for job_id in members]
    assert [row["state"] for row in rows] == ["failed", "cancelled", "cancelled", "succeeded"]
    assert (rows[2]["failure_class"], rows[2]["reason"]) == ("pruned", "fell behind")
    with database.write() as connection:
        assert standing.count_states(connection, [set_id])[set_id]["pruned"] == 1
        assert sets.retry_set(connection, set_id, actor="ada", fresh=True) == 2
    rows = [job_row(database, job_id) for job_id in members]
    assert [row["state"] for row in rows] == ["queued", "queued", "cancelled", "succeeded"]
    assert [(row["first_resumable_run"], row["may_be_pruned"]) for row in rows[:2]] == [(2, 1)] * 2
    with database.write() as connection:
        jobs.retry_job(connection, members[2], actor="ada", fresh=False)
    row = job_row(database, members[2])
    assert (row["prune_reason"], row["may_be_pruned"]) == (None, 0)


# What the scheduler sees


def test_max_parallel_is_a_limit_and_its_reason_is_told(database: Database) -> None:
    add_worker(database, num_devices=8)
    set_id, members = submit_set(database, 5, max_parallel=2)
    assert len(dispatch(database, lease_s=LEASE_S)) == 2
    assert dispatch(database, lease_s=LEASE_S) == []
    with database.read() as connection:
        [reason] = make_plan(connection, lease_s=LEASE_S).reasons(members[-1])
    assert reason.code == ReasonCode.LIMIT
    assert reason.text == f"set s{set_id} may have 2 jobs running at a time and has 2"
    with database.write() as connection:
        sets.set_max_parallel(connection, set_id, 4)
    assert len(dispatch(database, lease_s=LEASE_S)) == 2


@pytest.mark.parametrize(
    ("condition", "last", "expected"),
    [
        (Condition.OK, JobState.SUCCEEDED, None),
        (Condition.OK, JobState.FAILED, ReasonCode.DEPENDENCY_NEVER_SATISFIED),
        (Condition.FAIL, JobState.FAILED, None),
        (Condition.FAIL, JobState.SUCCEEDED, ReasonCode.DEPENDENCY_NEVER_SATISFIED),
        (Condition.ANY, JobState.CANCELLED, None),
        (Condition.OK, JobState.QUEUED, ReasonCode.DEPENDENCY),
    ],
)
def test_a_job_waits_for_a_set(
    database: Database, condition: Condition, last: JobState, expected: ReasonCode | None
) -> None:
    add_worker(database, num_devices=0)
    set_id, members = submit_set(database, 3)
    follower = submit(database, after=((f"s{set_id}", condition),))
    move_all(database, members[:2], JobState.SUCCEEDED)
    move_all(database, members[2:], last)
    with database.read() as connection:
        reasons = make_plan(connection, lease_s=LEASE_S).reasons(follower)
    about = [each for each in reasons if each.code.name.startswith("DEPENDENCY")]
    assert [each.code for each in about] == ([] if expected is None else [expected])
    assert all(f"all jobs of s{set_id}" in each.text for each in about)


def test_a_set_waits_for_a_set(database: Database) -> None:
    add_worker(database, num_devices=8)
    first, firsts = submit_set(database, 2)
    _, seconds = submit_set(database, 3, after=((f"s{first}", Condition.OK), ("@", Condition.OK)))
    assert len(dispatch(database, lease_s=LEASE_S)) == 2
    move_all(database, firsts, JobState.SUCCEEDED)
    dispatch(database, lease_s=LEASE_S)
    assert {job_row(database, job_id)["state"] for job_id in seconds} == {"starting"}
