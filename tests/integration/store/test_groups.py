"""Many runs placed or ended at once: each as if it were alone, all of them in a few statements."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection, event

from dljobs.errors import StaleToken, Unreachable
from dljobs.service import ends, jobs, offers, runs
from dljobs.service.database import Database
from dljobs.service.dispatch import Claimant, dispatch
from dljobs.service.ends import Notice
from dljobs.service.events import list_events
from dljobs.service.failures import FailureClass
from dljobs.service.logs import add_lines
from dljobs.service.planned import make_plan
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.snapshot import list_spells
from dljobs.service.tables import logs
from dljobs.workers.notices import Notices

from .rows import LEASE_S, add_worker, job_row, live_leases, run_it, run_row, start, states, submit

DONE = Outcome(None, "finished", result={"accuracy": 0.5})


def start_many(database: Database, number: int) -> list[RunKey]:
    """So many runs that are running, of a job each."""
    add_worker(database, num_devices=number)
    for _ in range(number):
        submit(database)
    keys = [placed.key for placed in dispatch(database, lease_s=LEASE_S)]
    for key in keys:
        run_it(database, key)
    return keys


def count_statements(database: Database, work: Callable[[], object]) -> int:
    """How many statements are sent while `work` is done."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return len(sent)


def end_all(database: Database, keys: Sequence[RunKey]) -> dict[int, jobs.JobState]:
    with database.write() as connection:
        return ends.take_notices(connection, [Notice(key.run_id, DONE, key.token) for key in keys], actor="w1")


def test_the_ends_of_many_take_as_many_statements_as_one(database: Database) -> None:
    keys = start_many(database, 9)
    one = count_statements(database, lambda: end_all(database, keys[:1]))
    eight = count_statements(database, lambda: end_all(database, keys[1:]))
    assert one == eight <= 20
    assert {states(database, key) for key in keys} == {("succeeded", "succeeded")}
    assert not any(live_leases(database, key) for key in keys)
    with database.read() as connection:
        assert len(list_spells(connection, [], 0.0)) == 9
        assert not offers.held_devices(connection)
    for key in keys:
        run = run_row(database, key.run_id)
        assert json.loads(job_row(database, run["job_id"])["result_json"]) == {"accuracy": 0.5}
        with database.read() as connection:
            moves = [(each["kind"], each["to_state"]) for each in list_events(connection, job_id=run["job_id"])]
        assert moves[-2:] == [("run", "succeeded"), ("job", "succeeded")]


def test_placing_many_takes_as_many_statements_as_one(database: Database) -> None:
    add_worker(database, num_devices=9)

    def place_next(number: int) -> int:
        for _ in range(number):
            submit(database)
        return count_statements(database, lambda: dispatch(database, lease_s=LEASE_S))

    assert place_next(1) == place_next(8)


def test_each_end_is_judged_by_its_own_token_and_its_own_job(database: Database) -> None:
    good, late, stolen, failed, unsaid = keys = start_many(database, 5)
    end_all(database, [late])
    found = [
        Notice(good.run_id, DONE, good.token),
        Notice(late.run_id, Outcome(FailureClass.USER, "too late"), late.token),
        Notice(stolen.run_id, Outcome(FailureClass.USER, "not mine"), "0" * 32),
        Notice(failed.run_id, Outcome(FailureClass.OOM, "out of memory"), failed.token),
        Notice(unsaid.run_id, Outcome(FailureClass.NODE_LOST, "gone")),  # as the sweep does
        Notice(12345, DONE, "f" * 32),
    ]
    with database.write() as connection:
        states_now = ends.take_notices(connection, found, actor="w1")
    assert states_now == {good.run_id: "succeeded", failed.run_id: "queued", unsaid.run_id: "queued"}
    assert [states(database, key)[1] for key in keys] == ["succeeded"] * 2 + ["running", "requeued", "requeued"]
    assert live_leases(database, stolen) == 1
    backoff = job_row(database, run_row(database, failed.run_id)["job_id"])
    assert (backoff["num_retries"], backoff["eligible_at"] is not None) == (1, True)


def test_a_run_that_ends_before_its_start_was_told_has_both_in_its_history(database: Database) -> None:
    add_worker(database)
    job_id = submit(database)
    [placed] = dispatch(database, lease_s=LEASE_S)
    with database.write() as connection:
        end = Notice(placed.key.run_id, DONE, placed.key.token, has_started=True)
        assert ends.take_notices(connection, [end], actor="w1") == {placed.key.run_id: "succeeded"}
        moves = [(each["kind"], each["from_state"], each["to_state"]) for each in list_events(connection)]
    assert moves[-4:] == [
        ("run", "starting", "running"),
        ("job", "starting", "running"),
        ("run", "running", "succeeded"),
        ("job", "running", "succeeded"),
    ]
    assert job_row(database, job_id)["started_at"] == run_row(database, placed.key.run_id)["started_at"] is not None


def test_runs_that_begin_go_on_and_end_share_a_transaction(database: Database) -> None:
    running, ending = start_many(database, 2)
    submit(database)
    submit(database)
    add_worker(database, "w2", num_devices=2)
    starting, silent = (placed.key for placed in dispatch(database, lease_s=LEASE_S))

    def say(key: RunKey) -> Callable[[Connection], object]:
        return lambda connection: add_lines(connection, key.run_id, [(0, f"run {key.run_id} speaks")])

    said = [
        Notice(running.run_id, None, running.token, has_started=True, write_rest=say(running)),
        Notice(ending.run_id, DONE, ending.token, has_started=True, write_rest=say(ending)),
        Notice(starting.run_id, None, starting.token, has_started=True, write_rest=say(starting)),
        Notice(silent.run_id, None, "0" * 32, has_started=True, write_rest=say(silent)),
    ]
    with database.write() as connection:
        found = ends.take_notices(connection, said, actor="w1")
        lines = [row["run_id"] for row in connection.execute(logs.select().order_by(logs.c.id)).mappings()]
    assert found == {running.run_id: "running", ending.run_id: "succeeded", starting.run_id: "running"}
    assert lines == sorted(found), "whose token is another says nothing"
    assert [states(database, key)[1] for key in (running, ending, starting, silent)] == [
        "running",
        "succeeded",
        "running",
        "starting",
    ]
    assert run_row(database, starting.run_id)["started_at"] is not None
    assert live_leases(database, starting) == 1


# A worker's group of notices


def test_one_that_cannot_be_written_keeps_the_others_from_nothing(database: Database) -> None:
    good, stale, bad, also_good = start_many(database, 4)
    written = Notices(database, actor="w1")

    def break_down(connection: Connection) -> None:
        connection.execute(logs.insert().values(run_id=bad.run_id, line="half of it", at=0.0))
        raise ValueError("a bug of ours")

    answers = [
        written.add(Notice(good.run_id, DONE, good.token)),
        written.add(Notice(stale.run_id, DONE, "0" * 32)),
        written.add(Notice(bad.run_id, DONE, bad.token, write_rest=break_down)),
        written.add(Notice(also_good.run_id, DONE, also_good.token)),
    ]
    written.write()
    assert [answers[0].result(0), answers[3].result(0)] == ["succeeded", "succeeded"]
    assert isinstance(answers[1].exception(0), StaleToken)
    assert isinstance(answers[2].exception(0), ValueError)
    assert states(database, bad) == ("running", "running")
    with database.read() as connection:
        assert connection.execute(logs.select()).first() is None, "half of a bad end was written"
    again = written.add(Notice(bad.run_id, DONE, bad.token))
    written.write()
    assert again.result(0) == "succeeded"


def test_in_an_outage_each_hears_of_it_and_may_come_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = start_many(database, 2)
    written = Notices(database, actor="w1")

    def away(*_: object, **__: object) -> None:
        raise Unreachable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", away)
        answers = [written.add(Notice(key.run_id, DONE, key.token)) for key in keys]
        written.write()
    assert [type(answer.exception(0)) for answer in answers] == [Unreachable] * 2
    answers = [written.add(Notice(key.run_id, DONE, key.token)) for key in keys]
    written.write()
    assert [answer.result(0) for answer in answers] == ["succeeded"] * 2


# Runs that fall to the worker that dispatches


def test_who_dispatches_has_its_own_runs_claimed_and_rings_the_others(database: Database) -> None:
    here, _there = add_worker(database, "w1", 2), add_worker(database, "w2", 2)
    for _ in range(4):
        submit(database)
    taken: list[RunKey] = []
    claimant = Claimant(here.worker_id, lambda _connection, keys: taken.extend(keys))
    rung = dispatch(database, lease_s=LEASE_S, claimant=claimant)
    assert [each.worker_name for each in rung] == ["w2", "w2"]
    assert len(taken) == 2
    with database.write() as connection:
        assert not any(runs.claim(connection, key, here.worker_id) for key in taken), "claimed twice"
        assert runs.unclaimed_keys(connection, here.worker_id) == []
    for key in taken:
        assert run_row(database, key.run_id)["claimed_at"] is not None
    assert {run_row(database, each.key.run_id)["claimed_at"] for each in rung} == {None}


def test_a_worker_that_dies_while_it_takes_its_runs_has_placed_nothing(database: Database) -> None:
    worker = add_worker(database)
    job_id = submit(database)

    def die(_connection: Connection, _keys: Sequence[RunKey]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dispatch(database, lease_s=LEASE_S, claimant=Claimant(worker.worker_id, die))
    assert job_row(database, job_id)["state"] == "queued"
    with database.read() as connection:
        assert not offers.held_devices(connection)
    assert len(dispatch(database, lease_s=LEASE_S)) == 1


def test_a_job_that_was_cancelled_since_the_plan_leaves_the_others_their_runs(database: Database) -> None:
    key = start(database)[1]
    first, second = submit(database), submit(database)
    with database.write() as connection:
        placed = make_plan(connection, lease_s=LEASE_S).placed
        jobs.request_cancel(connection, first, actor="ada")
        made = runs.create_runs(connection, placed, LEASE_S)
    assert list(made) == [second]
    assert job_row(database, first)["num_runs"] == 0
    assert live_leases(database, key) == live_leases(database, made[second]) == 1
