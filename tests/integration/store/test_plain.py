"""Plain databases say and write the same as whole ones, under the same rules, and hand on what is more than text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dljobs.errors import NotFound, Unreachable, UsageError
from dljobs.service import log_report, logs, names, overview, runs, schema, sets, statements
from dljobs.service.database import Database
from dljobs.service.failures import FailureClass
from dljobs.service.plain import PlainDatabase, open_plain
from dljobs.service.set_submission import prepare_set
from dljobs.service.settings import Settings
from dljobs.service.statements import NeedsSqlalchemy
from dljobs.service.submission import Request
from dljobs.service.variation import Variation
from tests.databases import settings_for
from tests.service_world import World

LEASE_S = 60.0


@pytest.fixture
def plain(database: Database, database_settings: Settings) -> Iterator[PlainDatabase]:
    del database
    with closing(schema.open_checked_plain(database_settings)) as plain:
        yield plain


@pytest.fixture
def world(database: Database, database_settings: Settings) -> World:
    """Jobs that wait for all kinds of reasons, run, and have ended; devices that are free, held, shared and silent."""
    world = World(database, database_settings)
    world.worker("w1", 2)
    world.worker("w2", 2, node="node2")
    world.silence(world.worker("w3", 1, node="node3"), 900)
    for failure in (None, FailureClass.USER, None):
        world.finished_job(failure)
    world.job(num_devices=2, training={"epochs": 3})
    world.job(share_percent=50)
    world.place()
    world.job(num_devices=8)
    waits = world.job(num_devices=2, priority=70, tags=["lab"])
    world.job(after=[str(waits)], begin="2h")
    with database.write() as connection:
        new = prepare_set(Request("lenet"), Variation(array="0-4", max_parallel=1), "ada")
        set_id, _created = sets.insert_set(connection, new)
    world.job(after=[f"s{set_id}:any"])
    world.job(held=True)
    return world


def without_time(found: object) -> object:
    """The same without what the clock has changed between two looks."""
    if isinstance(found, dict):
        moving = ("age_s", "silent_s", "expected_start_at", "eta_s")
        return {key: without_time(each) for key, each in found.items() if key not in moving}
    if isinstance(found, list):
        return [without_time(each) for each in found]
    return found


@pytest.mark.parametrize("limit", [2, None])
def test_the_overview_is_the_same(world: World, plain: PlainDatabase, limit: int | None) -> None:
    whole = overview.status(world.database, lease_s=LEASE_S, limit=limit)
    assert without_time(overview.status(plain, lease_s=LEASE_S, limit=limit)) == without_time(whole)
    states = {job["state"] for job in whole["jobs"]}
    assert {"starting", "queued", "succeeded"} <= states
    assert [job["reasons"] for job in whole["jobs"] if job["state"] == "queued"]
    assert whole["workers"]["silent"]
    assert whole["sets"][0]["reasons"]


def test_a_log_is_the_same(world: World, plain: PlainDatabase) -> None:
    with world.database.write() as connection:
        [run] = runs.list_runs(connection, [1])
        logs.add_lines(connection, run["id"], [(0, "first"), (None, "zero \0 byte"), (1, "ünï %s :name")])
    for wanted in ({}, {"rank": 1}, {"tail": 1}, {"tail": 0}, {"run": 1}):
        lines = log_report.list_lines(plain, 1, **wanted)  # type: ignore[arg-type]
        assert lines == log_report.list_lines(world.database, 1, **wanted)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="has no run 7"):
        log_report.list_lines(plain, 1, run=7)


def test_names_mean_the_same(world: World, plain: PlainDatabase) -> None:
    for text in ("1", "@", "@2", "s1", "s1.3", "s@"):
        with plain.read() as connection, world.database.read() as whole:
            assert names.resolve(connection, text) == names.resolve(whole, text)
    with plain.read() as connection, pytest.raises(NotFound):
        names.resolve(connection, "s7")


def test_what_is_more_than_text_is_handed_on(world: World, plain: PlainDatabase) -> None:
    with plain.read() as connection, pytest.raises(NeedsSqlalchemy):
        statements.whole(connection)
    with world.database.read() as connection:
        assert statements.whole(connection) is connection


@pytest.mark.usefixtures("database")
def test_a_block_that_raises_has_written_nothing(plain: PlainDatabase) -> None:
    insert = "INSERT INTO drained_nodes (node, reason, drained_by, drained_at) VALUES (:node, '', 'ada', NOW)"
    with plain.write() as connection:
        statements.run(connection, insert, node="n1")
    with pytest.raises(UsageError), plain.write() as connection:
        statements.run(connection, insert, node="n2")
        raise UsageError("no")
    with plain.read() as connection:
        assert [row["node"] for row in statements.rows(connection, "SELECT node FROM drained_nodes")] == ["n1"]
        assert statements.rows(connection, "SELECT node FROM drained_nodes WHERE node IN :names", names=[]) == []
        found = statements.value(connection, "SELECT count(*) FROM drained_nodes WHERE node IN :n", n=("n1", "n2"))
        assert found == 1


@pytest.mark.usefixtures("database")
def test_what_is_wrong_is_told_in_the_same_words(plain: PlainDatabase, database: Database) -> None:
    for each in (plain, database):
        with pytest.raises(Unreachable, match="has no dljobs tables") as caught, each.read() as connection:
            statements.rows(connection, "SELECT * FROM no_such_table")
        assert caught.value.hint == "run `dljobs db upgrade`"


def test_no_file_and_no_database(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="there is no database at"):
        open_plain(settings_for(tmp_path))
    (tmp_path / "dljobs.db").write_bytes(b"no database at all, but a file of some length" * 100)
    with pytest.raises(Unreachable, match="file is not a database"):
        schema.open_checked_plain(settings_for(tmp_path))
    with pytest.raises(Unreachable, match="there is no database at /no/such"):
        open_plain(settings_for(tmp_path, "sqlite:////no/such.db"))
    for url in ("sqlite:////no/such.db?timeout=5", "sqlite:///:memory:", "sqlite://", "mysql://host/base"):
        with pytest.raises(NeedsSqlalchemy):
            open_plain(settings_for(tmp_path, url))
