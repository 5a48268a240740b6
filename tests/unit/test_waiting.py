"""Waiting: what a client that watches a job sees, and when it stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dljobs.errors import NotFinished, Unreachable
from dljobs.service import waiting
from dljobs.service.database import Database, open_database
from dljobs.service.failures import FailureClass
from dljobs.service.waiting import FASTEST_POLL_S, SLOWEST_POLL_S, Poll, follow, follow_events, wait_for
from tests.databases import settings_for
from tests.service_world import World


class Script(Poll):
    """Does the next thing at each pause instead of sleeping; the time is up when nothing is left."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.happened: list[bool] = []

    def pause(self, *, happened: bool) -> bool:
        self.happened.append(happened)
        if not self.steps:
            return False
        self.steps.pop(0)()
        return True


@pytest.fixture
def world(sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    settings = settings_for(tmp_path)
    shutil.copy(sqlite_template, settings.sqlite_path)
    database = open_database(settings)
    yield World(database, settings)
    database.close()


def test_the_rhythm_slows_down_and_quickens() -> None:
    slept: list[float] = []
    poll = Poll(sleep=slept.append)
    for happened in [True, *[False] * 20, True]:
        assert poll.pause(happened=happened)
    assert slept[0] == slept[-1] == FASTEST_POLL_S
    assert slept[1:-1] == sorted(slept[1:-1])
    assert slept[-2] == SLOWEST_POLL_S


def test_it_never_sleeps_past_its_timeout() -> None:
    slept: list[float] = []
    poll = Poll(timeout_s=0.01, sleep=slept.append)
    assert poll.pause(happened=False)
    assert slept[0] <= 0.01
    assert not Poll(timeout_s=-1, sleep=slept.append).pause(happened=False)
    assert len(slept) == 1


def test_wait_for_all_of_them(world: World) -> None:
    world.worker()
    first, second = world.job(), world.job(held=True)
    key = world.start()

    def end_second() -> None:
        from dljobs.service import jobs

        with world.database.write() as connection:
            jobs.request_cancel(connection, second, actor="ada")

    poll = Script(lambda: world.succeed(key), end_second)
    ended = wait_for(world.database, [first, second], lease_s=60, poll=poll)
    assert [job["state"] for job in ended] == ["succeeded", "cancelled"]
    assert poll.happened == [True, True]


def test_not_finished_names_what_goes_on(world: World) -> None:
    ids = [world.job(held=True) for _ in range(7)]
    with pytest.raises(NotFinished) as caught:
        wait_for(world.database, ids, lease_s=60, poll=Script())
    assert caught.value.message == "stopped waiting: job 1, job 2, job 3, job 4, job 5 and 2 more go on"
    assert "dljobs wait 1" in caught.value.hint


def test_follow_tells_each_line_once_over_all_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LINES_AT_ONCE", 2)
    world.worker()
    job_id = world.job(max_retries=0)
    keys = []

    def first_run() -> None:
        keys.append(world.start())
        world.write_log(keys[0], *((0, str(number)) for number in range(5)))

    def second_run() -> None:
        world.end(keys[0], FailureClass.PREEMPTED, "drained")
        keys.append(world.start())
        world.write_log(keys[1], (0, "5"))

    def end() -> None:
        world.write_log(keys[1], (None, "6"))
        world.succeed(keys[1])

    glimpses = list(follow(world.database, job_id, lease_s=60, poll=Script(first_run, second_run, end)))
    lines = [line for glimpse in glimpses for line in glimpse.lines]
    assert [line["line"] for line in lines] == [str(number) for number in range(7)]
    assert [line["run"] for line in lines] == [1] * 5 + [2] * 2
    assert [glimpse.job["state"] for glimpse in glimpses][-1] == "succeeded"


@pytest.mark.parametrize(("tail", "told"), [(None, ["a", "b", "c"]), (1, ["b", "c"]), (0, ["c"]), (9, ["a", "b", "c"])])
def test_follow_begins_with_the_last_lines(world: World, tail: int | None, told: list[str]) -> None:
    world.worker()
    job_id = world.job()
    key = world.start()
    world.write_log(key, (0, "a"), (0, "b"))
    poll = Script(lambda: world.write_log(key, (0, "c")), lambda: world.succeed(key))
    glimpses = follow(world.database, job_id, lease_s=60, poll=poll, tail=tail)
    assert [line["line"] for glimpse in glimpses for line in glimpse.lines] == told


def test_a_database_that_is_away_for_a_while_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.worker()
    job_id = world.finished_job()
    read, failures = Database.read, [Unreachable("away"), Unreachable("away")]

    def flaky(database: Database) -> object:
        if failures:
            raise failures.pop()
        return read(database)

    monkeypatch.setattr(Database, "read", flaky)
    monkeypatch.setattr(waiting, "SLOWEST_POLL_S", 0.0)
    (job,) = wait_for(world.database, [job_id], lease_s=60, poll=Poll())
    assert job["state"] == "succeeded"
    failures.append(Unreachable("for good"))
    monkeypatch.setattr(waiting, "PATIENCE_S", -1.0)
    with pytest.raises(Unreachable, match="for good"):
        wait_for(world.database, [job_id], lease_s=60, poll=Poll())


def test_events_are_told_once_and_late_ones_too(world: World) -> None:
    for _ in range(3):
        world.job(held=True)
    told: list[int] = []
    with world.database.write() as connection:  # a number that another transaction holds, as on Postgres
        connection.exec_driver_sql("UPDATE events SET id = 5 WHERE id = 3")

    def late() -> None:
        with world.database.write() as connection:
            statement = "INSERT INTO events (id, at, actor, kind, reason) VALUES (4, 0, 'x', 'late', '')"
            connection.exec_driver_sql(statement)

    for new in follow_events(world.database, job_id=None, limit=2, poll=Script(late, lambda: world.job(held=True))):
        told += [event["id"] for event in new]
    assert told == [2, 5, 4, 6]
