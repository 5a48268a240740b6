"""`update`, `usage`, `node`, `status --start` and what `status` and `why` say of the queue."""

from __future__ import annotations

import re

import pytest

from dljobs.errors import UsageError
from dljobs.service import offers, policy, quarantine
from dljobs.service.clock import now
from dljobs.service.policy import make_policy
from dljobs.service.quarantine import Fault
from dljobs.service.scheduling.quotas import Quota
from dljobs.service.scheduling.rows import Limit
from dljobs.service.settings import load_settings
from dljobs.service.tables import runs
from tests.databases import settings_for
from tests.service_world import World


def test_status_has_the_first_reason_the_place_and_the_start(dljobs, world: World):
    world.worker("w1", 1)
    world.job(time_limit_s=600.0)
    world.start()
    world.job()
    world.job()
    first, second = dljobs("status").lines[2:4]
    assert "place 1" in first
    assert "starts 9m5" in first or "starts 10m" in first
    assert "it needs 1 device; the best worker, w1, has 0 free" in first
    assert "place 2" in second
    assert "(and 1 more: `dljobs why 3`)" in second


def test_all_expected_starts(dljobs, world: World):
    assert dljobs("status", "--start").lines[0] == "no job waits"
    world.worker("w1", 1)
    world.job(time_limit_s=600.0)
    world.start()
    world.job(time_limit_s=60.0)
    world.job(held=True)
    world.job()
    lines = dljobs("status", "--start").lines
    assert [line.split()[0] for line in lines[1:4]] == ["2", "4", "3"]
    assert "unknown" in lines[3]
    found = dljobs("status", "--start", "--json").json["jobs"]
    assert [job["place"] for job in found] == [1, None, 2]
    assert found[2]["expected_start_at"] - found[0]["expected_start_at"] == pytest.approx(60, abs=1)


def test_why_tells_place_and_start(dljobs, world: World):
    world.worker("w1", 1)
    world.job()
    world.start()
    world.job()
    assert "number 1 in the queue; nobody knows when it starts" in dljobs("why", 2).out


def test_update_changes_what_waits(dljobs, world: World, redis):
    world.job()
    done = dljobs("update", 1, "--priority", 60, "--gpus", 4, "--time", "1h", "--name", "other", "--json")
    [job] = done.json
    changed = {name: job[name] for name in ("priority", "num_devices", "time_limit_s", "name", "strategy")}
    assert changed == {"priority": 60, "num_devices": 4, "time_limit_s": 3600.0, "name": "other", "strategy": "ddp"}
    assert redis.rings[-1][0] == "dljobs.schedule"
    assert "ada changed priority 50 → 60" in dljobs("events", 1).out
    world.worker("w1", 4)
    world.start()
    refused = dljobs("update", 1, "--priority", 40)
    assert (refused.code, "only a job that waits" in refused.err) == (1, True)
    assert dljobs("update", 1).code == 2


def test_update_changes_a_set_at_once(dljobs, world: World, redis):
    world.worker("w1", 1)
    dljobs("submit", "lenet", "--sweep", "batch-size=32,64", "--sweep", "seed=0-1")
    world.start()
    done = dljobs("update", "s1", "--max-parallel", 2, "--preemptible", "--gpus", 2, "--name", "wide", "--time", "1h")
    assert done.err == "s1: 3 queued, 1 running; at most 2 at a time\n"
    assert redis.rings == [("dljobs.schedule", "dljobs.schedule")] * 2
    found = dljobs("status", "--expand", "--json").json
    assert (found["sets"][0]["max_parallel"], found["sets"][0]["name"]) == (2, "wide")
    placed, *waiting = found["jobs"]
    assert (placed["is_preemptible"], placed["num_devices"], placed["time_limit_s"]) == (False, 1, None)
    for job in waiting:
        assert (job["is_preemptible"], job["num_devices"], job["strategy"], job["name"]) == (True, 2, "ddp", "wide")
    assert [job["spec"]["training"]["batch_size"] for job in (dljobs("show", n, "--json").json for n in (2, 3))] == [
        32, 64,
    ]  # fmt: skip
    assert "ada changed max_parallel of s1 as many as fit → 2" in dljobs("events", "-n", 50).out
    assert "ada changed is_preemptible → 1, devices → 2" in dljobs("events", 2).out
    assert dljobs("update", "s1.1", "--no-preemptible", "--json").json[0]["is_preemptible"] is False


def test_update_changes_all_of_a_set_or_nothing(dljobs, world: World):
    dljobs("submit", "lenet", "--sweep", "batch-size=30,32")
    refused = dljobs("update", "s1", "--gpus", 4, "--priority", 60)
    assert (refused.code, "batch size 30" in refused.err) == (2, True)
    assert {(job["priority"], job["num_devices"]) for job in dljobs("status", "--expand", "--json").json["jobs"]} == {
        (50, 1)
    }
    assert "between 1 and" in dljobs("update", "s1", "--max-parallel", 0).err
    alone = dljobs("update", 1, "--max-parallel", 2)
    assert (alone.code, "is about a set" in alone.err) == (2, True)
    dljobs("cancel", "s1")
    assert dljobs("update", "s1", "--max-parallel", 1).code == 0
    assert "no job of s1 waits" in dljobs("update", "s1", "--priority", 1).err


def test_expected_starts_of_a_set_that_may_run_two_at_a_time(dljobs, world: World):
    world.worker("w1", 4)
    dljobs("submit", "lenet", "--array", "0-5%2", "--time", "10m")
    world.place()
    world.job(num_devices=4, time_limit_s=60.0)
    found = dljobs("status", "--start", "--expand", "--json").json
    now = found["jobs"][0]["submitted_at"] + found["jobs"][0]["age_s"]
    starts = {job["id"]: round(job["expected_start_at"] - now, -1) for job in found["jobs"]}
    # Two have run for a moment; what is no job of the set has its turn before those that the set keeps back.
    assert starts == {7: 600, 3: 660, 4: 660, 5: 1260, 6: 1260}


def test_a_range_and_what_it_got(dljobs, world: World):
    world.worker("w1", 3)
    done = dljobs("submit", "lenet", "--gpus", "2-8")
    assert done.lines == ["job 1 submitted: lenet on digits, ddp on 2-8 devices"]
    assert "2-8" in dljobs("status").lines[1].split()
    assert "it can start now, on 3 devices of w1" in dljobs("why", 1).out
    world.start()
    assert "3" in dljobs("status").lines[1].split()
    assert "it asked for 2-8 devices and got 3, as many as were free" in dljobs("why", 1).out
    [job] = dljobs("status", "--json").json["jobs"]
    assert {name: job[name] for name in ("num_devices", "min_devices", "size", "num_held")} == {
        "num_devices": 8, "min_devices": 2, "size": "2-8", "num_held": 3,
    }  # fmt: skip
    assert dljobs("show", 1, "--json").json["runs"][0]["num_devices"] == 3
    dljobs("submit", "lenet", "--gpus", 1)
    changed = dljobs("update", 2, "--gpus", "2-4")
    assert changed.err == "job 2 is queued: priority 50, devices 2-4\n"
    assert "ada changed devices 1 → 2-4" in dljobs("events", 2).out
    assert "it needs at least 2 devices (2-4 were asked for); the best worker, w1, has 0 free" in dljobs("why", 2).out


def test_shares_of_a_device(dljobs, world: World):
    world.worker("w1", 1)
    assert dljobs("submit", "lenet", "--gpus", "0.25").lines == [
        "job 1 submitted: lenet on digits, single on 0.25 of a device"
    ]
    world.start()
    dljobs("submit", "lenet", "--gpus", ".5")
    world.start()
    dljobs("submit", "lenet", "--gpus", "0.5")
    dljobs("submit", "lenet")
    assert "run 1 is starting on" not in dljobs("why", 1).out
    assert "run 1 trains on 0.25 of " in dljobs("why", 1).out
    assert "it needs 0.5 of a device; no device is free, and of the shared ones the best, on w1, has 0.25 left" in (
        dljobs("why", 3).out
    )
    assert "w1-cpu-0 shared by job 1 (0.25), job 2 (0.5)" in dljobs("node", "show", "node1").out
    assert "job 1 (0.25), job 2 (0.5)" in dljobs("workers").out
    assert "job 1 (0.25), job 2 (0.5)" in dljobs("gpu", "list").out
    [user] = dljobs("usage", "--json").json["users"]
    assert user["num_devices_running"] == 0.75
    assert "0 of 1 devices free" in dljobs("status").out
    [device] = dljobs("workers", "--json").json[0]["devices"]
    assert device["job_id"] is None
    assert [(each["job_id"], each["percent"]) for each in device["shared_by"]] == [(1, 25), (2, 50)]


def test_a_ceiling_for_priorities(dljobs, world: World, settings):
    with world.database.write() as connection:
        policy.write_policy(connection, settings_for(settings.home, priority_ceiling=60, limits="user:* queued=1"))
    refused = dljobs("submit", "lenet", "--priority", 70)
    assert (refused.code, "above 60" in refused.err) == (2, True)
    assert dljobs("submit", "lenet", "--priority", 60).code == 0
    refused = dljobs("submit", "lenet")
    assert (refused.code, "ada may have 1 jobs queued and has 1" in refused.err) == (2, True)


def test_nodes_are_drained_and_let_in_again(dljobs, world: World, redis):
    assert "no nodes" in dljobs("node", "list").out
    world.worker("w1", 2, node="gpu1")
    world.worker("w2", 2, node="gpu2")
    world.job()
    world.start()
    assert dljobs("node", "drain", "gpu1", "--reason", "new fan", "--now").code == 0
    assert redis.rings[-1][0] == "dljobs.attend"
    drained, other = dljobs("node", "list").lines[1:]
    assert drained.split()[:5] == ["gpu1", "drained", "1", "2", "1"]
    assert "new fan" in drained
    assert other.split()[1] == "online"
    assert "by ada" in dljobs("node", "show", "gpu1").out
    assert dljobs("node", "undrain", "gpu1").code == 0
    assert dljobs("node", "undrain", "gpu1").code == 2
    assert dljobs("node", "show", "gpu9").code == 102


def test_usage_of_nobody_and_of_somebody(dljobs, world: World):
    assert "nobody" in dljobs("usage").out
    world.worker("w1", 2)
    world.job()
    world.start()
    assert dljobs("usage").lines[1].split()[0] == "ada"
    assert dljobs("usage", "--json").json["users"][0]["num_devices_running"] == 1


def test_usage_has_the_quotas(dljobs, world: World):
    limits = "user:* hours=1/10h; user:bob hours=5/7d; tag:lab hours=0.5/1h"
    changed = load_settings({"home": world.settings.home, "limits": limits}, environ={})
    with world.database.write() as connection:
        policy.write_policy(connection, changed)
    world.worker("w1", 2)
    world.job(num_devices=2, tags=("lab",))
    key = world.start()
    with world.database.write() as connection:
        ago = {"created_at": now() - 7200.0, "ended_at": now() - 3000.0}
        connection.execute(runs.update().where(runs.c.id == key.run_id).values(**ago))
    ada, bob, lab = dljobs("usage", "--json").json["quotas"]
    assert (ada["kind"], ada["name"], ada["used_s"], ada["allowed_s"]) == ("user", "ada", pytest.approx(8400), 3600)
    assert (ada["is_used_up"], ada["frees_in_s"]) == (True, pytest.approx(28800 + 2400, abs=5))
    assert (bob["name"], bob["used_s"], bob["is_used_up"], bob["frees_at"]) == ("bob", 0, False, None)
    assert (lab["kind"], lab["name"], lab["used_s"]) == ("tag", "lab", pytest.approx(1200, abs=20))
    lines = dljobs("usage").lines
    assert re.split(r" {2,}", lines[-3])[:4] == ["user ada", "10h00m", "2.33h", "1h"]
    assert re.split(r" {2,}", lines[-2].strip()) == ["user bob", "7d00h", "0.00h", "5h"]


def test_limits_and_shares_as_people_write_them():
    quotas = make_policy({"limits": "user:* hours=200/7d jobs=4; tag:course hours=0.5/12h"}).scheduling
    assert quotas.user_limits == {"*": Limit(running_jobs=4, quota=Quota(720_000.0, 7 * 86400.0))}
    assert quotas.tag_limits == {"course": Limit(quota=Quota(1800.0, 43200.0))}
    for wrong in ("hours=5", "hours=x/7d", "hours=5/", "hours=-1/7d"):
        with pytest.raises(UsageError):
            make_policy({"limits": f"user:* {wrong}"})
    found = make_policy({"limits": "user:* devices=8 jobs=4 queued=9; tag:a devices=0", "shares": "ada=2, bob=0.5"})
    assert found.scheduling.user_limits == {"*": Limit(8, 4, 9)}
    assert found.scheduling.tag_limits == {"a": Limit(running_devices=0)}
    assert found.scheduling.shares == {"ada": 2.0, "bob": 0.5}


def test_a_device_in_quarantine_is_shown_everywhere_and_released(dljobs, world: World, redis):
    assert "no devices" in dljobs("gpu", "list").out
    world.worker("w1", 2)
    with world.database.write() as connection:
        first = offers.list_devices(connection)[0]
        quarantine.quarantine(connection, first, Fault("it burns", "fire"), actor="w1", retry_s=60)
    world.job(num_devices=2)
    assert "it burns" in dljobs("status").lines[1]
    assert dljobs("status").lines[-1] == "1 of 2 devices free · 1 quarantined (`dljobs gpu list`) · 1 worker"
    assert dljobs("status", "--json").json["devices"] == {"total": 2, "free": 1, "quarantined": 1}
    assert "1 device of w1 is quarantined: it burns" in dljobs("why", 1).out
    assert "quarantined: it burns" in dljobs("workers").lines[1]
    assert "w1-cpu-0 is quarantined: it burns" in dljobs("node", "show", "node1").out
    shut, free = dljobs("gpu", "list").lines[1:]
    assert shut.split()[:3] == ["node1:w1-cpu-0", "w1", "quarantined"]
    assert free.split()[2] == "free"
    listed = dljobs("gpu", "list", "--json").json
    assert [(each["node"], each["worker"], bool(each["quarantine"])) for each in listed] == [
        ("node1", "w1", True),
        ("node1", "w1", False),
    ]
    assert dljobs("workers", "--json").json[0]["devices"][0]["quarantine"]["num_tries"] == 1
    assert dljobs("gpu", "release", "node1:0").code == 0
    assert redis.rings[-1][0] == "dljobs.schedule"
    again = dljobs("gpu", "release", "node1:0")
    assert (again.code, "not in quarantine" in again.err) == (2, True)
    assert dljobs("gpu", "release", "node9:0").code == 102
    assert dljobs("gpu", "release", "0").code == 2
