"""What the reading commands load, on SQLite and on Postgres alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest

import dljobs.service
from dljobs.service import control, log_report, overview, reports
from dljobs.service.curves import load_curves
from dljobs.service.database import Database
from dljobs.service.doorbell import Doorbell
from dljobs.service.explanation import explain
from dljobs.service.failures import FailureClass
from dljobs.service.json_text import to_json
from dljobs.service.settings import Settings
from dljobs.service.waiting import Poll, follow, wait_for
from dljobs.service.weights import export
from tests.service_world import World

SCHEMA = json.loads((Path(dljobs.service.__file__).parent / "output_schema.json").read_text())


@pytest.fixture
def world(database: Database, database_settings: Settings) -> World:
    """Job 1 succeeded in its second run, job 2 waits for devices, job 3 is held."""
    world = World(database, database_settings)
    world.worker("w1", 2)
    world.job(tags=("a",))
    first = world.start()
    world.write_log(first, (0, "first"), (0, "zero byte: \0"))
    world.write_points(first, "train", "loss", {1: 2.0, 2: math.nan, 3: 1.0})
    world.end(first, FailureClass.PREEMPTED, "drained")
    second = world.start()
    world.write_points(second, "train", "loss", {3: 0.9})
    world.store(second, 1, accuracy=0.5)
    world.write_log(second, (None, "second"))
    world.succeed(second, accuracy=0.5, loss=math.inf)
    world.job(num_devices=4)
    world.job(held=True)
    return world


def check(noun: str, value: object) -> None:
    envelope = json.loads(to_json({"dljobs": 1, noun: value}))
    jsonschema.validate(envelope, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_every_report_is_what_the_schema_says(world: World) -> None:
    database = world.database
    status = overview.status(database, lease_s=60, limit=None)
    check("status", status)
    assert [job["state"] for job in status["jobs"]] == ["queued", "held", "succeeded"]
    assert status["devices"] == {"total": 2, "free": 2, "quarantined": 0}
    for job_id in (1, 2, 3):
        check("job", reports.job_details(database, job_id, lease_s=60))
        check("why", explain(database, job_id, lease_s=60))
        check("artifacts", reports.list_artifacts(database, job_id))
    check("workers", reports.list_workers(database, lease_s=60))
    check("events", reports.list_events(database, job_id=None, limit=100))
    check("logs", log_report.list_lines(database, 1))
    check("schema", reports.schema(world.settings))
    assert [line["line"] for line in log_report.list_lines(database, 1)] == ["first", "zero byte: ␀", "second"]


def test_curves_follow_and_export(world: World, tmp_path: Path) -> None:
    (curve,) = load_curves(world.database, [1])
    check("curves", [curve])
    assert curve["points"] == [[1, 0, 2.0], [2, 0, None], [3, 0, 0.9]]
    (glimpse,) = follow(world.database, 1, lease_s=60, poll=Poll())
    assert [line["run"] for line in glimpse.lines] == [1, 1, 2]
    check("jobs", wait_for(world.database, [1], lease_s=60, poll=Poll()))
    check("artifacts", [export(world.database, 1, "best", tmp_path / "x")])
    assert (tmp_path / "x").read_bytes() == b"weights"


def test_control(world: World) -> None:
    doorbell = Doorbell(world.settings)  # nobody answers
    assert control.release(world.database, doorbell, 3, actor="ada") is False
    control.hold(world.database, 3, actor="ada")
    assert control.cancel(world.database, doorbell, 3, actor="ada")
    assert control.retry(world.database, doorbell, 3, actor="ada", fresh=True) is False
    (job,) = reports.list_jobs(world.database, [3], lease_s=60)
    assert (job["state"], job["reasons"]) == ("queued", [])
