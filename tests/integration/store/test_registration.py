"""Workers: who may register, what each one offers, and when it no longer counts."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from dljobs.errors import UsageError
from dljobs.service import offers, registration
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.dispatch import dispatch
from dljobs.service.events import list_events
from dljobs.service.process_mark import ProcessMark
from dljobs.service.registration import DeviceInfo, Registration
from dljobs.service.settings import Settings
from dljobs.service.snapshot import offering_workers
from dljobs.service.states import WorkerState
from dljobs.service.tables import devices, workers

from .racing import race
from .rows import LEASE_S, add_worker, submit, worker_info


def gpu(uuid: str, position: int = 0) -> DeviceInfo:
    return DeviceInfo(uuid=uuid, kind="cuda", name="H100", position=position, memory_bytes=80 * 2**30)


def beat(database: Database, who: Registration) -> bool:
    with database.write() as connection:
        return registration.beat(connection, who)


def set_state(database: Database, who: Registration, state: WorkerState) -> None:
    with database.write() as connection:
        registration.set_state(connection, who, state, reason="because")


def offered(database: Database) -> dict[str, int]:
    """The workers that take work, with the number of their devices."""
    with database.read() as connection:
        return {worker.name: len(worker.devices) for worker in offering_workers(connection, lease_s=LEASE_S)}


def go_silent(database: Database, name: str) -> None:
    with database.write() as connection:
        late = update(workers).where(workers.c.name == name)
        connection.execute(late.values(heartbeat_at=now() - LEASE_S - 1))


def test_a_worker_is_entered_with_its_devices(database: Database) -> None:
    who = add_worker(database, "w1", devices=[gpu("GPU-a", 0), gpu("GPU-b", 1)], versions={"torch": "2.9"})
    with database.read() as connection:
        [worker] = offers.list_workers(connection)
        rows = offers.list_devices(connection)
        [event] = list_events(connection)
    assert (worker["name"], worker["state"], worker["id"]) == ("w1", "online", who.worker_id)
    assert 0 <= worker["silent_s"] < 5
    assert [(row["uuid"], row["kind"], row["position"], row["memory_bytes"]) for row in rows] == [
        ("GPU-a", "cuda", 0, 80 * 2**30),
        ("GPU-b", "cuda", 1, 80 * 2**30),
    ]
    assert (event["worker_id"], event["to_state"], event["actor"]) == (who.worker_id, "online", "w1")
    assert beat(database, who)


def test_a_second_living_worker_of_the_same_name_is_refused_by_name(database: Database) -> None:
    first = add_worker(database, "w1", process=ProcessMark(4711, "born"))
    for node in ("n1", "n2"):
        with pytest.raises(UsageError, match=r"'w1' already runs on node n1 \(pid 4711\)") as caught:
            add_worker(database, "w1", node=node)
        assert "--name" in caught.value.hint
    assert beat(database, first)


@pytest.mark.parametrize("gone", ["dead pid", "silent", "offline"])
def test_a_worker_that_is_gone_is_replaced_at_once(database: Database, gone: str) -> None:
    first = add_worker(database, "w1", devices=[gpu("GPU-a"), gpu("GPU-b", 1)])
    if gone == "silent":
        go_silent(database, "w1")
    elif gone == "offline":
        set_state(database, first, WorkerState.OFFLINE)
    second = add_worker(
        database, "w1", devices=[gpu("GPU-b", 1)], process=ProcessMark(2000, "born"), is_alive=gone != "dead pid"
    )
    assert second.worker_id == first.worker_id
    assert second.session != first.session
    assert not beat(database, first)
    assert beat(database, second)
    assert offered(database) == {"w1": 1}
    # The one that was replaced can do no harm any more.
    set_state(database, first, WorkerState.OFFLINE)
    assert offered(database) == {"w1": 1}


def test_the_pid_of_another_node_proves_nothing(database: Database) -> None:
    add_worker(database, "w1", node="n1")
    with pytest.raises(UsageError, match="already runs on node n1"):
        add_worker(database, "w1", node="n2", is_alive=False)


def test_overlapping_devices_are_refused_by_name_of_the_other(database: Database) -> None:
    add_worker(database, "w1", devices=[gpu("GPU-a", 0), gpu("GPU-b", 1)], process=ProcessMark(4711, "born"))
    with pytest.raises(UsageError) as caught:
        add_worker(database, "w2", devices=[gpu("GPU-c", 2), gpu("GPU-b", 1)])
    message = str(caught.value) + caught.value.hint
    assert all(word in message for word in ("GPU-b", "'w1'", "4711", "--gpus"))
    assert "GPU-a" not in message
    with database.read() as connection:
        assert [row["name"] for row in offers.list_workers(connection)] == ["w1"]
        assert len(offers.list_devices(connection)) == 2
    add_worker(database, "w2", devices=[gpu("GPU-c", 2)])
    add_worker(database, "w3", devices=[gpu("GPU-a")], node="n2")


def test_devices_of_a_dead_worker_are_free_for_another(database: Database) -> None:
    add_worker(database, "w1", devices=[gpu("GPU-a", 0), gpu("GPU-b", 1)])
    add_worker(database, "w2", devices=[gpu("GPU-b", 1)], is_alive=False)
    with database.read() as connection:
        owners = dict(connection.execute(select(devices.c.uuid, devices.c.worker_id)).all())  # type: ignore[arg-type]
        names = {row["id"]: row["name"] for row in offers.list_workers(connection)}
    assert names[owners["GPU-b"]] == "w2"


def test_who_takes_work(database: Database) -> None:
    first, second = add_worker(database, "w1", 2), add_worker(database, "w2", 3)
    assert offered(database) == {"w1": 2, "w2": 3}
    set_state(database, first, WorkerState.DRAINING)
    assert offered(database) == {"w2": 3}
    go_silent(database, "w2")
    assert offered(database) == {}
    submit(database)
    assert dispatch(database, lease_s=LEASE_S) == []
    beat(database, second)
    assert offered(database) == {"w2": 3}
    set_state(database, second, WorkerState.OFFLINE)
    set_state(database, second, WorkerState.OFFLINE)
    with database.read() as connection:
        assert [row["worker_id"] for row in offers.list_devices(connection)] == [first.worker_id] * 2
        moves = [(row["actor"], row["to_state"]) for row in list_events(connection) if row["from_state"]]
    assert moves == [("w1", "draining"), ("w2", "offline")]


def register_in_a_race(url: str, name: str, uuids: list[str]) -> str:
    database = Database(url)
    info = worker_info(name, devices=[gpu(uuid, position) for position, uuid in enumerate(uuids)])
    try:
        with database.write() as connection:
            registration.register(connection, info, stale_after_s=LEASE_S, is_alive=lambda _process: True)
    except UsageError as error:
        return str(error)
    return "registered"


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("same", ["name", "device"])
def test_of_many_that_register_at_once_one_wins(
    database: Database, database_settings: Settings, same: str, known: bool
) -> None:
    """Also where no row exists yet that could be locked."""
    racers: list[tuple[Any, ...]] = [
        (database_settings.sqlalchemy_url, "w" if same == "name" else f"w{number}", ["GPU-a", f"GPU-{number}"])
        for number in range(6)
    ]
    if known:
        first = add_worker(database, racers[0][1], devices=[gpu("GPU-a")])
        set_state(database, first, WorkerState.OFFLINE)
    said = race(register_in_a_race, *racers)
    assert said.count("registered") == 1
    assert all("already" in words for words in said if words != "registered")
    assert list(offered(database).values()) == [2]
