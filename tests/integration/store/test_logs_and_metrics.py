"""Logs and metrics: whatever a user's program prints or computes gets in, and comes out in its order."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dljobs.service import logs, metrics
from dljobs.service.database import Database
from dljobs.service.metrics import Point
from dljobs.workers.folder import RunFolder
from dljobs.workers.reports import Reports

from .rows import start

NASTY = [
    "",
    " ",
    "a\0b",
    "\0",
    "x" * 300_000,
    "naïve ✗ 🚀 \u202e",
    "\x1b[31mred\x1b[0m",
    "' OR 1=1 --",
    "%s %(x)s :y",
    "\\",
]


def add(database: Database, run_id: int, lines: list[tuple[int | None, str]]) -> None:
    with database.write() as connection:
        logs.add_lines(connection, run_id, lines)


def test_any_line_can_be_stored(database: Database) -> None:
    _job, key = start(database)
    add(database, key.run_id, [(0, line) for line in NASTY])
    add(database, key.run_id, [(0, "lone surrogates \udc80 \ud83d")])
    add(database, key.run_id, [])
    with database.read() as connection:
        stored = [row["line"] for row in logs.list_lines(connection, [key.run_id])]
    assert stored[:-1] == [line.replace("\0", "␀") for line in NASTY]
    assert stored[-1].startswith("lone surrogates")


def test_lines_come_in_the_order_in_which_they_arrived(database: Database) -> None:
    _job, key = start(database)
    _job, other = start(database)
    add(database, key.run_id, [(rank, f"{number}") for number in range(50) for rank in (0, 1)])
    add(database, other.run_id, [(0, "of another run")])
    add(database, key.run_id, [(None, "the supervisor's")])
    with database.read() as connection:
        rows = logs.list_lines(connection, [key.run_id])
        assert [row["line"] for row in rows] == [f"{n}" for n in range(50) for _ in (0, 1)] + ["the supervisor's"]
        assert [row["line"] for row in logs.list_lines(connection, [key.run_id], rank=1, tail=2)] == ["48", "49"]
        assert [row["line"] for row in logs.list_lines(connection, [key.run_id], tail=1)] == ["the supervisor's"]
        assert len(logs.list_lines(connection, [key.run_id], tail=0)) == 0
        after = logs.list_lines(connection, [key.run_id], after_id=rows[97]["id"])
        assert [(row["rank"], row["line"]) for row in after] == [(0, "49"), (1, "49"), (None, "the supervisor's")]
        assert len(logs.list_lines(connection, [key.run_id, other.run_id])) == 102
        assert logs.list_lines(connection, []) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(database: Database, value: float) -> None:
    _job, key = start(database)
    with database.write() as connection:
        metrics.add_points(connection, key.run_id, [Point(1, 1, "train", "loss", value, 0.0)])
        [row] = metrics.list_points(connection, [key.run_id])
    assert row["value"] is None


def test_numbers_come_back_bit_for_bit(database: Database) -> None:
    _job, key = start(database)
    values = [0.1, 1e308, 1e-300, 1 / 3, 0.0, 2.0**53 + 2]
    points = [Point(step, 1, "train", "loss", value, 0.0) for step, value in enumerate(values)]
    with database.write() as connection:
        metrics.add_points(connection, key.run_id, list(reversed(points)))
        metrics.add_points(connection, key.run_id, [Point(2, 1, "test", "accuracy", 0.5, 0.0)])
        metrics.add_points(connection, key.run_id, [])
    with database.read() as connection:
        rows = metrics.list_points(connection, [key.run_id], name="loss")
        assert len(metrics.list_points(connection, [key.run_id])) == len(values) + 1
    assert [row["value"].hex() for row in rows] == [value.hex() for value in values]
    assert [row["step"] for row in rows] == list(range(len(values)))


def test_what_was_measured_after_a_step_can_be_forgotten(database: Database) -> None:
    _job, key = start(database)
    _job, other = start(database)
    for run_id in (key.run_id, other.run_id):
        with database.write() as connection:
            metrics.add_points(connection, run_id, [Point(n, 1, "train", "loss", 0.1, 0.0) for n in range(5)])
    with database.write() as connection:
        metrics.drop_after(connection, key.run_id, 2)
    with database.read() as connection:
        assert [row["step"] for row in metrics.list_points(connection, [key.run_id])] == [0, 1, 2]
        assert len(metrics.list_points(connection, [other.run_id])) == 5


def test_steps_beyond_32_bits(database: Database) -> None:
    _job, key = start(database)
    with database.write() as connection:
        metrics.add_points(connection, key.run_id, [Point(10**12, 1, "train", "loss", 0.1, 0.0)])
        assert metrics.list_points(connection, [key.run_id])[0]["step"] == 10**12


def test_the_first_line_of_a_rank_waits_for_nothing(database: Database, tmp_path: Path) -> None:
    """Later ones come in bundles; what the supervisor itself says is no output of the job."""
    _job, key = start(database)
    folder = RunFolder(tmp_path).create()
    reports = Reports(database, key, folder, range(1), lambda _event: None)
    reports.say("fetching what it begins with")
    assert reports.ship()
    for line, is_there in (("the first", True), ("the second", False)):
        with folder.log(0).open("a") as log:
            log.write(f"{line}\n")
        reports.read()
        assert reports.ship() is is_there
    with database.read() as connection:
        lines = [row["line"] for row in logs.list_lines(connection, [key.run_id])]
    assert lines == ["fetching what it begins with", "the first"]
