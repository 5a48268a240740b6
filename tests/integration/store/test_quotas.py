"""Quotas on both databases: summed from the runs themselves, those that go on included."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.explanation import explain
from dljobs.service.runs import RunKey
from dljobs.service.scheduling.quotas import used_s
from dljobs.service.settings import Settings
from dljobs.service.snapshot import take_snapshot
from dljobs.service.tables import runs

from .rows import LEASE_S, add_worker, end, start, submit
from .test_dispatch import place_all
from .test_scheduling import DONE, codes, set_policy

HOUR_S = 3600.0


def happened(database: Database, key: RunKey, begun_h: float, ended_h: float | None = None) -> None:
    """Let the run have begun so many hours ago, and have ended."""
    values = {"created_at": now() - begun_h * HOUR_S}
    if ended_h is not None:
        values["ended_at"] = now() - ended_h * HOUR_S
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == key.run_id).values(**values))


def used_h(database: Database, kind: str, name: str) -> float:
    """Device-hours of a quota that is used up."""
    with database.read() as connection:
        snapshot, _policy = take_snapshot(connection, lease_s=LEASE_S)
    over = snapshot.over_quota[kind, name]
    return used_s(over.intervals, snapshot.now, over.quota.period_s) / HOUR_S


def test_a_quota_counts_what_ended_and_what_goes_on(database: Database, database_settings: Settings) -> None:
    add_worker(database, "w1", 4)
    set_policy(database, database_settings, limits="user:* hours=8/24h; tag:lab hours=3/12h")
    _old, old = start(database, 2, tags=("lab",))
    end(database, old, DONE)
    happened(database, old, 26, 22)  # half of it is past
    assert place_all(database) == {}
    waiting = submit(database)
    assert place_all(database) == {waiting: "w1"}
    _long, long = start(database, 2)
    happened(database, long, 2.2)
    more = submit(database)
    others = submit(database, user="bob")
    assert place_all(database) == {others: "w1"}
    assert used_h(database, "user", "ada") == pytest.approx(8.4, abs=0.1)
    assert [str(code) for code in codes(database, more)] == ["Quota", "Resources"]
    words = explain(database, more, lease_s=LEASE_S)["sentences"][0]
    assert words.startswith("user ada may have 8 device-hours in 1d00h and has had 8.4")
    set_policy(database, database_settings, limits="user:* hours=9/24h")
    assert "Quota" not in map(str, codes(database, more))


def test_a_quota_of_a_tag_is_of_all_its_jobs(database: Database, database_settings: Settings) -> None:
    add_worker(database, "w1", 4)
    set_policy(database, database_settings, limits="tag:lab hours=3/12h")
    for user in ("ada", "bob"):
        _job, key = start(database, 1, tags=("lab", "x"), user=user)
        end(database, key, DONE)
        happened(database, key, 4, 2)
    mine, free = submit(database, tags=("lab",)), submit(database, tags=("x",))
    assert place_all(database) == {free: "w1"}
    assert used_h(database, "tag", "lab") == pytest.approx(4, abs=0.01)
    assert [str(code) for code in codes(database, mine)] == ["Quota"]
