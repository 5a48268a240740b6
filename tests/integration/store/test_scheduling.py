"""What the scheduler is told by rows, on both databases: requests, dependencies, drains, limits, use, history."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, event, func, insert, select, update

from dljobs.errors import DljobsError, NotFound, UsageError
from dljobs.service import jobs, ledger, nodes, policy, registration
from dljobs.service.alteration import alter_job
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.failures import FailureClass
from dljobs.service.planned import Planned, make_plan
from dljobs.service.registration import DeviceInfo
from dljobs.service.runs import Outcome
from dljobs.service.scheduling.reasons import ReasonCode
from dljobs.service.scheduling.rows import Condition, Selector
from dljobs.service.settings import Settings, load_settings
from dljobs.service.sizes import Size
from dljobs.service.snapshot import list_spells, take_snapshot
from dljobs.service.tables import jobs as job_table
from dljobs.service.tables import ledger as ledger_table
from dljobs.service.tables import runs as run_table
from dljobs.service.usage_report import usage_report
from tests.waiting import wait_until

from .rows import LEASE_S, add_worker, end, job_row, place, run_it, start, submit, worker_info
from .test_dispatch import place_all

DONE = Outcome(None, "trained")


def planned(database: Database) -> Planned:
    with database.read() as connection:
        return make_plan(connection, lease_s=LEASE_S)


def codes(database: Database, job_id: int) -> list[ReasonCode]:
    return [reason.code for reason in planned(database).reasons(job_id)]


def set_policy(database: Database, settings: Settings, **values: object) -> bool:
    changed = load_settings({"home": settings.home, **values}, environ={})
    with database.write() as connection:
        return policy.write_policy(connection, changed)


def test_a_request_is_placed_where_it_can_be(database: Database) -> None:
    gpus = [DeviceInfo(f"g{n}", "cuda", "NVIDIA A100-SXM4-40GB", n, 42_000_000_000) for n in range(2)]
    add_worker(database, "w1", 4)
    with database.write() as connection:
        info = worker_info("w2", node="n2", devices=gpus, labels={"room": "b12"})
        registration.register(connection, info, stale_after_s=LEASE_S, is_alive=lambda _process: True)
    wanted = {
        submit(database, selector=Selector(device_type="a100", memory_bytes=40_000_000_000)): "w2",
        submit(database, selector=Selector(device_type="cpu")): "w1",
        submit(database, selector=Selector(labels=(("room", "b12"),))): "w2",
        submit(database, selector=Selector(exclude=("n2",))): "w1",
    }
    too_much = submit(database, selector=Selector(device_type="cuda", memory_bytes=80_000_000_000))
    assert place_all(database) == wanted
    [reason] = planned(database).reasons(too_much)
    assert reason.code == ReasonCode.NEVER_FITS
    assert "type cuda, 80 GB of memory" in reason.text


def test_a_job_waits_for_another_to_end_so(database: Database) -> None:
    first, key = start(database)
    after = {each: submit(database, after=((str(first), each),)) for each in Condition}
    assert place_all(database) == {}
    assert codes(database, after[Condition.OK]) == [ReasonCode.DEPENDENCY]
    end(database, key, Outcome(FailureClass.USER, "a bug"))
    assert codes(database, after[Condition.OK]) == [ReasonCode.DEPENDENCY_NEVER_SATISFIED]
    assert set(place_all(database)) == {after[Condition.FAIL], after[Condition.ANY]}
    with database.write() as connection:
        jobs.retry_job(connection, first, actor="ada", fresh=False)
    assert codes(database, after[Condition.OK]) == [ReasonCode.DEPENDENCY]


def test_a_job_cannot_wait_for_one_that_is_not_there(database: Database) -> None:
    with pytest.raises(NotFound, match="no job 77"):
        submit(database, after=(("77", Condition.OK),))
    with database.read() as connection:
        assert jobs.list_active(connection) == []
    latest = submit(database)
    following = submit(database, after=(("@", Condition.OK),))
    assert f"job {latest} " in planned(database).reasons(following)[-1].text


def test_a_job_begins_by_the_databases_clock(database: Database) -> None:
    add_worker(database)
    later = submit(database, begin_in_s=3600.0)
    assert codes(database, later) == [ReasonCode.BEGIN_TIME]
    assert job_row(database, later)["begin_at"] - job_row(database, later)["submitted_at"] == pytest.approx(3600, abs=1)
    with database.write() as connection:
        connection.execute(update(job_table).values(begin_at=job_table.c.submitted_at))
    assert list(place_all(database)) == [later]


def test_a_drained_node_takes_nothing_and_says_why(database: Database) -> None:
    add_worker(database)
    with database.write() as connection:
        nodes.drain_node(connection, "n1", actor="ada", reason="new fan", evict=False)
        nodes.drain_node(connection, "n1", actor="ada", reason="two new fans", evict=True)
        assert nodes.is_evicted(connection, "n1")
    waiting = submit(database)
    assert place_all(database) == {}
    [reason] = planned(database).reasons(waiting)
    assert (reason.code, "two new fans" in reason.text) == (ReasonCode.NODE_DRAINED, True)
    with database.write() as connection:
        nodes.undrain_node(connection, "n1", actor="ada")
        with pytest.raises(UsageError, match="not drained"):
            nodes.undrain_node(connection, "n1", actor="ada")
        with pytest.raises(NotFound, match="n9"):
            nodes.drain_node(connection, "n9", actor="ada", reason="", evict=False)
    assert list(place_all(database)) == [waiting]


def test_limits_hold_for_who_has_no_settings_of_his_own(database: Database, database_settings: Settings) -> None:
    add_worker(database, num_devices=8)
    assert set_policy(database, database_settings, limits="user:* devices=2; user:bob jobs=1; tag:lab devices=1")
    assert not set_policy(database, database_settings), "a worker with defaults changes nothing"
    assert not set_policy(database, database_settings, limits="user:* devices=2; user:bob jobs=1; tag:lab devices=1")
    mine, more = submit(database, 2), submit(database, 1)
    bobs, second = submit(database, user="bob"), submit(database, user="bob")
    assert set(place_all(database)) == {mine, bobs}
    assert codes(database, more) == [ReasonCode.LIMIT]
    assert "ada may have 2 devices running and has 2: 1 more would be 3" in planned(database).reasons(more)[0].text
    assert codes(database, second) == [ReasonCode.LIMIT]
    set_policy(database, database_settings, limits="", shares="ada=2")
    assert codes(database, more) == codes(database, second) == []
    with pytest.raises(UsageError, match="unknown limit 'cores'"):
        set_policy(database, database_settings, limits="user:ada cores=3 x")


def test_use_is_what_runs_have_had(database: Database) -> None:
    _job, key = start(database, num_devices=2)
    set_back(database, key.run_id, 100.0)
    found = usage_report(database)["users"]
    assert [(user["user"], user["num_devices_running"]) for user in found] == [("ada", 2)]
    assert found[0]["device_s"] == pytest.approx(200, abs=5)
    end(database, key, DONE)
    assert usage_report(database)["users"][0]["device_s"] == pytest.approx(200, abs=5)
    waiting = submit(database, user="bob")
    found = usage_report(database)["users"]
    assert [(user["user"], user["num_waiting"], user["entitled"]) for user in found] == [
        ("bob", 1, 0.5),
        ("ada", 0, 0.5),
    ]
    assert waiting


def set_back(database: Database, run_id: int, by_s: float) -> None:
    with database.write() as connection:
        mine = update(run_table).where(run_table.c.id == run_id)
        connection.execute(mine.values(created_at=run_table.c.created_at - by_s))


def test_who_used_less_comes_first(database: Database) -> None:
    _job, key = start(database, num_devices=4)
    set_back(database, key.run_id, 1000.0)
    again, other = submit(database, 4), submit(database, 4, user="bob")
    order = [job.id for job in planned(database).plan.order]
    assert order == [other, again]


def test_the_ledger_is_folded_and_stays_the_same(database: Database) -> None:
    with database.write() as connection:
        rows = [
            {"user": f"u{n % 3}", "device_s": 100.0, "begun_at": 1000.0 + n, "ended_at": 1050.0 + n} for n in range(250)
        ]
        connection.execute(insert(ledger_table), rows)
        before = usage_of(connection)
        ledger.fold(connection, 2000.0, 3600.0)
        assert connection.execute(select(func.count()).select_from(ledger_table)).scalar_one() == 3
        assert usage_of(connection) == pytest.approx(before)
        ledger.fold(connection, 2000.0, 3600.0)
        assert usage_of(connection) == pytest.approx(before)


def usage_of(connection: Connection) -> dict[str, float]:
    from dljobs.service.scheduling.usage import decayed_usage

    return decayed_usage(list_spells(connection, [], 9000.0), 9000.0, 3600.0)


def test_expected_ends_come_from_progress_then_the_limit_then_history(database: Database) -> None:
    add_worker(database, num_devices=1)
    first, key = start(database)
    with database.write() as connection:
        connection.execute(update(job_table).values(started_at=job_table.c.submitted_at))
    end(database, key, DONE)
    with database.write() as connection:
        ended = update(job_table).where(job_table.c.id == first)
        connection.execute(ended.values(ended_at=job_table.c.started_at + 300.0))
    limited, usual = submit(database, time_limit_s=60.0), submit(database)
    with database.read() as connection:
        snapshot, _policy = take_snapshot(connection, lease_s=LEASE_S)
    assert {job.id: job.duration_s for job in snapshot.waiting} == {limited: 60.0, usual: 300.0}
    [placed] = dispatch(database, lease_s=LEASE_S)
    run_it(database, placed.key)
    found = planned(database)
    start_at = found.expected_start_at(usual)
    assert start_at is not None
    assert start_at - found.plan.snapshot.now == pytest.approx(60, abs=5)
    assert found.place(usual) == 1
    with database.write() as connection:
        now = found.plan.snapshot.now
        values = {"step": 10, "total_steps": 50, "steps_per_s": 2.0, "progress_at": now}
        connection.execute(update(run_table).where(run_table.c.id == placed.key.run_id).values(**values))
    start_at = planned(database).expected_start_at(usual)
    assert start_at is not None
    assert start_at - now == pytest.approx(20, abs=2)


def test_a_job_that_waits_can_be_changed(database: Database, database_settings: Settings) -> None:
    job_id = submit(database, 4)
    with database.write() as connection:
        changes = {"priority": 60, "time_limit_s": 90.0, "name": "other"}
        alter_job(connection, job_id, {**changes, "size": Size()}, actor="ada")
    job = job_row(database, job_id)
    assert {name: job[name] for name in changes} == changes
    assert (job["strategy"], '"num_devices": 1,' in job["spec_json"]) == ("single", True)
    set_policy(database, database_settings, priority_ceiling=55)
    refused: list[tuple[dict[str, object], str]] = [
        ({"priority": 56}, "above 55"),
        ({"priority": -1}, "between 0 and 100"),
        ({"size": Size(7, 7)}, "batch size 64"),
        ({"size": Size(65, 2)}, "no sample for each of 65 ranks"),
        ({"name": ""}, "printable"),
    ]
    for wrong, words in refused:
        with pytest.raises(UsageError, match=words), database.write() as connection:
            alter_job(connection, job_id, wrong, actor="ada")
    _placed, _key = place(database)
    with pytest.raises(DljobsError, match="only a job that waits"), database.write() as connection:
        alter_job(connection, job_id, {"priority": 1}, actor="ada")


def test_a_plan_reads_no_more_for_what_has_ended(database: Database) -> None:
    """The same statements, and on SQLite each of them by an index, not by going through finished jobs."""
    add_worker(database)
    submit(database, 9)
    asked: list[tuple[str, object]] = []

    def note(_connection, _cursor, statement, parameters, _context, _many):  # type: ignore[no-untyped-def]
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    planned(database)
    event.remove(database.engine, "before_cursor_execute", note)
    assert len(asked) < 20
    if not database.is_sqlite:
        return
    with database.read() as connection:
        for statement, parameters in asked:
            if not statement.lstrip().startswith("SELECT"):
                continue
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).mappings()  # type: ignore[arg-type]
            scanned = [step["detail"] for step in steps if step["detail"].startswith("SCAN")]
            large = ("jobs", "runs", "leases", "events", "other")
            slow = [step for step in scanned if step.split()[1] in large and "ix_leases_live" not in step]
            assert slow == [], statement


def test_a_scheduler_killed_before_its_commit_leaves_nothing(database: Database) -> None:
    add_worker(database)
    job_id = submit(database)
    with pytest.raises(RuntimeError, match="killed"), database.write() as connection:
        placed = make_plan(connection, lease_s=LEASE_S).placed
        from dljobs.service.runs import create_runs

        create_runs(connection, placed[:1], LEASE_S)
        raise RuntimeError("killed")
    assert job_row(database, job_id)["state"] == "queued"
    assert list(place_all(database)) == [job_id]


def test_two_schedulers_place_a_queue_once(database: Database) -> None:
    add_worker(database, "w1", 4)
    add_worker(database, "w2", 4)
    ids = [submit(database) for _ in range(12)]
    barrier = threading.Barrier(4)

    def one() -> list[int]:
        barrier.wait(10)
        return [placed.key.run_id for placed in dispatch(database, lease_s=LEASE_S)]

    with ThreadPoolExecutor(4) as pool:
        found = [run_id for each in [pool.submit(one) for _ in range(4)] for run_id in each.result(30)]
    assert len(found) == len(set(found)) == 8
    with database.read() as connection:
        states = [jobs.get_job(connection, job_id)["state"] for job_id in ids]
    assert sorted(states) == ["queued"] * 4 + ["starting"] * 8
    wait_until(lambda: dispatch(database, lease_s=LEASE_S) == [], 5, "nothing is left to place")
