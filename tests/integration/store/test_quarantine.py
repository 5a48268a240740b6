"""Devices in quarantine, on both databases: not placed on, tried again, released by hand, and what `why` says."""

from __future__ import annotations

import pytest
from sqlalchemy import RowMapping, select, update

from dljobs.errors import NotFound, UsageError
from dljobs.service import offers, quarantine
from dljobs.service.database import Database
from dljobs.service.events import list_events
from dljobs.service.failures import FailureClass
from dljobs.service.quarantine import Fault
from dljobs.service.runs import Outcome
from dljobs.service.tables import quarantines
from dljobs.workers.health import Check, Health

from .rows import add_worker, end, job_row, place, submit
from .test_dispatch import place_all
from .test_scheduling import planned

RETRY_S = 60.0
FIRE = Fault("it burns", "fire")


def device(database: Database, position: int = 0, worker: str = "w1") -> RowMapping:
    with database.read() as connection:
        offered = offers.list_devices(connection)
    return next(row for row in offered if row["uuid"] == f"{worker}-cpu-{position}")


def row_of(database: Database, of: RowMapping) -> RowMapping:
    with database.read() as connection:
        return connection.execute(select(quarantines).where(quarantines.c.device_id == of["id"])).mappings().one()


def shut(database: Database, of: RowMapping, fault: Fault = FIRE) -> None:
    with database.write() as connection:
        quarantine.quarantine(connection, of, fault, actor="w1", retry_s=RETRY_S)


def let_time_pass(database: Database) -> None:
    """Until every device in quarantine is to be tried again."""
    with database.write() as connection:
        connection.execute(update(quarantines).values(next_try_at=0.0))


def health(database: Database, worker_id: int, *checks: Check) -> Health:
    return Health(database, checks, worker_id=worker_id, actor="w1", retry_s=RETRY_S)


def is_burning(*uuids: str) -> Check:
    """A check that finds these devices burning."""
    return lambda row: [FIRE] if row["uuid"] in uuids else []


def reasons(database: Database, job_id: int) -> list[str]:
    return [f"{reason.code}: {reason.text}" for reason in planned(database).reasons(job_id)]


def test_a_device_in_quarantine_takes_nothing_and_the_others_do(database: Database) -> None:
    add_worker(database, "w1", 2)
    shut(database, device(database))
    both = submit(database, 2)
    one = submit(database)
    assert place_all(database) == {one: "w1"}
    words = "Quarantined: 1 device of w1 is quarantined: it burns (`dljobs gpu list`)"
    assert reasons(database, both) == [words]
    with database.write() as connection:
        assert quarantine.lift(connection, device(database), actor="w1")
        assert not quarantine.lift(connection, device(database), actor="w1")
    assert reasons(database, both)[0].startswith("Resources: it needs 2 devices; the best worker, w1, has 1 free")
    with database.read() as connection:
        told = [event["reason"] for event in list_events(connection) if event["kind"] == "quarantine"]
    assert told == ["device w1-cpu-0 of node n1 is quarantined: it burns", "device w1-cpu-0 of node n1 is well again"]


def test_a_device_is_tried_again_after_longer_and_longer(database: Database) -> None:
    add_worker(database)
    waits = []
    for _ in range(9):
        shut(database, device(database))
        row = row_of(database, device(database))
        waits.append(round(row["next_try_at"] - row["since_at"], -1))
    assert waits[:5] == [60, 120, 240, 480, 960]
    assert waits[-1] == 3600
    assert row["num_tries"] == 9
    with database.read() as connection:
        assert sum(event["kind"] == "quarantine" for event in list_events(connection)) == 1


def test_a_released_device_keeps_out_only_what_was_not_accepted(database: Database) -> None:
    worker_id = add_worker(database, "w1", 1).worker_id
    checked = health(database, worker_id, is_burning("w1-cpu-0"))
    assert checked.refuse([device(database)]) == "device w1-cpu-0 cannot be used: it burns"
    with database.write() as connection:
        assert quarantine.release(connection, "n1:0", actor="ada") == "n1:w1-cpu-0"
    assert checked.refuse([device(database)]) == ""
    let_time_pass(database)
    assert not checked.look_round()
    assert row_of(database, device(database))["released_by"] == "ada", "the accepted fault is still remembered"
    wet = health(database, worker_id, is_burning("w1-cpu-0"), lambda _row: [Fault("it is wet", "water")])
    assert wet.refuse([device(database)]) == "device w1-cpu-0 cannot be used: it is wet"
    assert row_of(database, device(database))["num_tries"] == 1


def test_a_fault_with_which_nothing_could_run_is_found_again(database: Database) -> None:
    worker_id = add_worker(database).worker_id
    dead = health(database, worker_id, lambda _row: [Fault("it does not answer")])
    assert dead.refuse([device(database)])
    with database.write() as connection:
        quarantine.release(connection, "n1:w1-cpu-0", actor="ada")
    assert dead.refuse([device(database)])


def test_idle_devices_are_looked_at_and_come_back(database: Database) -> None:
    worker_id = add_worker(database, "w1", 2).worker_id
    add_worker(database, "w2", 1)
    seen: list[str] = []

    def note(row: RowMapping) -> list[Fault]:
        seen.append(row["uuid"])
        return []

    burning = health(database, worker_id, note, is_burning("w1-cpu-0", "w2-cpu-0"))
    assert not burning.look_round()
    assert sorted(seen) == ["w1-cpu-0", "w1-cpu-1"], "another worker's devices are its own business"
    with database.read() as connection:
        assert list(offers.list_quarantined(connection)) == [device(database)["id"]]
    seen.clear()
    well = health(database, worker_id, note)
    assert not well.look_round()
    assert seen == ["w1-cpu-1"], "one that failed is not tried before its time"
    let_time_pass(database)
    assert well.look_round()
    with database.read() as connection:
        assert not offers.list_quarantined(connection)


def test_a_device_that_a_run_holds_is_left_alone(database: Database) -> None:
    worker_id = add_worker(database, "w1", 1).worker_id
    place(database)
    assert not health(database, worker_id, is_burning("w1-cpu-0")).look_round()
    with database.read() as connection:
        assert not offers.list_quarantined(connection)


def test_a_refused_run_costs_its_job_nothing(database: Database) -> None:
    job_id, key = place(database, max_retries=0)
    refused = Outcome(FailureClass.DEVICE, "not started: it burns", was_refused=True)
    assert end(database, key, refused) == "queued"
    job = job_row(database, job_id)
    assert (job["num_retries"], job["num_lost"], job["eligible_at"]) == (0, 0, None)
    assert job["reason"] == "queued again: not started: it burns"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nonsense", UsageError, "names no device"),
        (":", UsageError, "names no device"),
        ("n9:0", NotFound, "no node 'n9'"),
        ("n1:9", NotFound, "has no device '9'"),
        ("n1:w1-cpu", UsageError, "means 4 devices"),
        ("n1:1", UsageError, "not in quarantine"),
    ],
)
def test_a_name_that_releases_nothing(database: Database, name: str, error: type[Exception], words: str) -> None:
    add_worker(database)
    shut(database, device(database))
    with pytest.raises(error, match=words), database.write() as connection:
        quarantine.release(connection, name, actor="ada")
