"""Real workers and ranks on a part of a device, and on as many devices of a range as are free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dljobs.service import offers
from dljobs.service.control import drain, undrain
from dljobs.service.doorbell import Doorbell
from dljobs.service.explanation import explain
from dljobs.service.metrics import list_points
from tests.cluster import Cluster, running_cluster

ENDLESS = ("epochs=100000",)
LONG = ("epochs=40", "lr=0.001")
COMPARED = 300  # steps: a run of two goes on for a while before it hears that it has to leave


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home")) as cluster:
        cluster.start_worker("one", 1)
        cluster.start_worker("four", 4)
        yield cluster


def losses(cluster: Cluster, job_id: int) -> dict[int, float]:
    """The training loss by step, over all runs."""
    with cluster.database.read() as connection:
        points = list_points(connection, [run["id"] for run in cluster.runs(job_id)])
    return {each["step"]: each["value"] for each in points if (each["split"], each["name"]) == ("train", "loss")}


def test_two_halves_run_at_once_on_one_device_and_a_whole_job_waits(cluster: Cluster) -> None:
    there = {"labels": ("worker=one",)}
    halves = [cluster.submit("lenet", *ENDLESS, share_percent=50, **there) for _ in range(2)]
    for job_id in halves:
        cluster.wait_for_step(job_id, 1)
    with cluster.database.read() as connection:
        held = [(row["job_id"], row["percent"]) for row in offers.held_devices(connection)]
        assert len({row["device_id"] for row in offers.held_devices(connection)}) == 1
    assert held == [(job_id, 50) for job_id in halves]
    whole = cluster.submit("lenet", "max_steps=3", "epochs=1", **there)
    found = explain(cluster.database, whole, lease_s=cluster.settings.lease_s)
    assert [reason["code"] for reason in found["reasons"]] == ["Resources"]
    cluster.cancel(halves[0])
    assert cluster.job(whole)["state"] == "queued"
    cluster.cancel(halves[1])
    assert cluster.wait_for_end(whole)["state"] == "succeeded"


def test_a_range_starts_on_two_goes_on_with_four_and_learns_the_same(cluster: Cluster) -> None:
    there = {"labels": ("worker=four",)}
    blocker = cluster.submit("lenet", *ENDLESS, num_devices=2, **there)
    cluster.wait_for_state(blocker, "running")
    job_id = cluster.submit("lenet", *LONG, num_devices=4, min_devices=1, **there)
    cluster.wait_for_step(job_id, 20)
    node = cluster.database, Doorbell(cluster.settings), _node_of(cluster, job_id)
    drain(*node, actor="tester", reason="to move it", evict=True)
    cluster.wait_for_state(job_id, "queued")
    cluster.cancel(blocker)
    undrain(*node, actor="tester")
    cluster.wait_for_step(job_id, COMPARED)
    cluster.cancel(job_id)
    runs = cluster.runs(job_id)
    assert [run["num_devices"] for run in runs] == [2, 4]
    assert 20 <= runs[0]["step"] < COMPARED
    assert any("rank 3 of 4" in line for line in cluster.log(job_id))
    assert any("2 ranks then, 4 now" in line for line in cluster.log(job_id))

    on_four = cluster.submit("lenet", *LONG, num_devices=4, **there)
    cluster.wait_for_step(on_four, COMPARED)
    cluster.cancel(on_four)
    here, expected = losses(cluster, job_id), losses(cluster, on_four)
    assert [here[step] for step in range(1, COMPARED + 1)] == pytest.approx(
        [expected[step] for step in range(1, COMPARED + 1)], rel=0.02, abs=0.002
    )


def test_a_range_of_a_number_that_does_not_divide_the_batch(cluster: Cluster) -> None:
    there = {"labels": ("worker=four",)}
    short = ("max_steps=10", "epochs=1")
    on_three = cluster.submit("lenet", *short, num_devices=3, min_devices=2, **there)
    on_four = cluster.submit("lenet", *short, num_devices=4, **there)
    for job_id in (on_three, on_four):
        assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert cluster.runs(on_three)[0]["num_devices"] == 3
    assert losses(cluster, on_three) == pytest.approx(losses(cluster, on_four), rel=1e-3)


def _node_of(cluster: Cluster, job_id: int) -> str:
    from dljobs.service.registration import get_worker

    with cluster.database.read() as connection:
        return str(get_worker(connection, cluster.runs(job_id)[-1]["worker_id"])["node"])
