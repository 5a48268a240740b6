"""Real workers whose devices are checked, and taken for more important jobs: the others go on, nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.service import control, offers
from dljobs.service.doorbell import Doorbell
from tests.cluster import Cluster, running_cluster
from tests.waiting import wait_until

SHORT = ("max_steps=3", "epochs=1")
ENDLESS = ("epochs=100000",)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a file with a device's name says what is wrong with it."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, faults: Path) -> Iterator[Cluster]:
    check = faults / "check"
    check.write_text(f'#!/bin/sh\ncat "{faults}/$1" 2> /dev/null && exit 1\nexit 0\n')
    check.chmod(0o700)
    home = tmp_path_factory.mktemp("home")
    with running_cluster(home, health_command=str(check), health_s=1.0) as cluster:
        cluster.start_worker("w1", 2)
        yield cluster


def quarantined(cluster: Cluster) -> dict[str, str]:
    """Devices in quarantine, with the reason."""
    with cluster.database.read() as connection:
        names = {row["id"]: row["uuid"] for row in offers.list_devices(connection)}
        return {names[key]: row["reason"] for key, row in offers.list_quarantined(connection).items()}


def test_a_device_that_fails_its_check_is_left_out_until_it_is_well(cluster: Cluster, faults: Path) -> None:
    blocker = cluster.submit("lenet", *ENDLESS, num_devices=2)
    cluster.wait_for_step(blocker, 1)
    (faults / "cpu-w1-0").write_text("too hot\n")  # which nobody looks at while a run holds it
    job_id = cluster.submit("lenet", *SHORT, max_retries=0)
    cluster.cancel(blocker)
    job = cluster.wait_for_end(job_id)
    assert (job["state"], job["num_retries"], job["num_lost"]) == ("succeeded", 0, 0)
    refused, done = cluster.runs(job_id)
    assert (refused["state"], refused["failure_class"], refused["started_at"]) == ("requeued", "device", None)
    assert "not started: device cpu-w1-0 cannot be used" in refused["reason"]
    assert done["state"] == "succeeded"
    assert quarantined(cluster) == {"cpu-w1-0": f"{faults}/check: too hot"}

    # By hand: the fault stays, and is accepted.
    both = cluster.submit("lenet", *SHORT, num_devices=2)
    name, heard = control.release_device(cluster.database, Doorbell(cluster.settings), device_name(cluster), actor="a")
    assert (name, heard) == (device_name(cluster), True)
    assert cluster.wait_for_end(both)["state"] == "succeeded"
    assert quarantined(cluster) == {}

    # By itself: idle devices are looked at, and taken back when they are well.
    (faults / "cpu-w1-0").write_text("too wet\n")
    wait_until(lambda: quarantined(cluster), 20, "another fault to be found while the device is idle")
    both = cluster.submit("lenet", *SHORT, num_devices=2)
    (faults / "cpu-w1-0").unlink()
    assert cluster.wait_for_end(both)["state"] == "succeeded"


def device_name(cluster: Cluster) -> str:
    with cluster.database.read() as connection:
        (row,) = (row for row in offers.list_devices(connection) if row["uuid"] == "cpu-w1-0")
    return f"{row['node']}:{row['uuid']}"


def test_a_job_that_was_preempted_resumes_and_ends_with_the_very_same_weights(cluster: Cluster) -> None:
    same = ("max_steps=150", "epochs=100", "batch_size=32", "trainer.seed=7")
    whole = cluster.wait_for_end(cluster.submit("lenet", *same, num_devices=2, priority=20))
    low = cluster.submit("lenet", *same, num_devices=2, priority=20, is_preemptible=True, max_retries=0)
    cluster.wait_for_step(low, 1)
    urgent = cluster.submit("lenet", *SHORT, priority=80)
    done = cluster.wait_for_end(urgent)
    job = cluster.wait_for_end(low)
    assert (done["state"], job["state"]) == ("succeeded", "succeeded")
    assert (job["num_preempted"], job["num_retries"], job["num_lost"]) == (1, 0, 0)
    cut, rest = cluster.runs(low)
    assert (cut["state"], cut["failure_class"], cut["preempted_for_id"]) == ("requeued", "preempted", urgent)
    words, stopped_after = cut["reason"].rsplit(maxsplit=1)
    assert words == f"preempted by job {urgent} of tester (priority 80): stopped after step"
    assert 0 < int(stopped_after) < 150, "it was cut in the middle"
    (between,) = cluster.runs(urgent)
    assert cut["ended_at"] <= between["created_at"] <= between["ended_at"] <= rest["created_at"]
    assert f"continuing after step {stopped_after}, exactly" in "\n".join(cluster.log(low))
    digests = [json.loads(each["result_json"])["weights_sha256"] for each in (whole, job)]
    assert digests[0] == digests[1]
