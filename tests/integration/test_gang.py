"""A job over two nodes: real workers with two node names on one host, real ranks, over loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.service import control, offers, parts
from dljobs.service.doorbell import Doorbell
from dljobs.service.node_checks import check_nodes
from tests.cluster import Cluster, running_cluster
from tests.waiting import wait_until

NODES = {"w1": "n1", "w2": "n2"}
ENDLESS = ("epochs=100000",)
# Long enough to be interrupted, short enough to be finished afterwards.
INTERRUPTIBLE = ("epochs=20", "checkpoint_every_s=0.5")
FAILS_ON_RANK_3 = """
import os
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(1024, 10))

    def forward(self, x):
        if os.environ["RANK"] == "3":
            raise ValueError("no such luck")
        return super().forward(x)
"""


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Two workers of two devices each, alive, with nothing on them."""
    for name, node in NODES.items():
        if name not in shared_cluster.workers or shared_cluster.workers[name].exit_code() is not None:
            shared_cluster.start_worker(name, 2, node=node)
    return shared_cluster


def parts_of(cluster: Cluster, job_id: int) -> list[dict[str, object]]:
    with cluster.database.read() as connection:
        return [dict(part) for part in parts.list_parts(connection, cluster.runs(job_id)[-1]["id"])]


def test_two_nodes_train_one_model(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", "epochs=2", num_devices=4, num_nodes=2)
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", (job, cluster.log(job_id))
    alone = cluster.submit("lenet", "epochs=2", num_devices=2)
    result, other = (json.loads(each["result_json"]) for each in (job, cluster.wait_for_end(alone)))
    assert result["num_samples"] == 359
    assert result["loss"] == pytest.approx(other["loss"], rel=0.05), "the same samples in the same order"
    assert {part["node"] for part in parts_of(cluster, job_id)} == {"n1", "n2"}
    log = cluster.log(job_id)
    for rank in range(4):
        assert any(f"rank {rank} of 4 on" in line for line in log), log
    (run,) = cluster.runs(job_id)
    assert (run["step"], run["total_steps"]) == (46, 46)
    assert run["started_at"] <= run["first_step_at"] <= run["ended_at"]


def test_the_doctor_times_the_network_between_nodes(cluster: Cluster) -> None:
    with cluster.database.read() as connection:
        assert offers.held_devices(connection) == []
    (check,) = check_nodes(cluster.settings, cluster.database)
    assert (check.ok, check.name in ("n1 – n2", "n2 – n1")) == ("ok", True), check
    assert re.search(r"1 KiB in [\d.]+ ms, 16 MiB in [\d.]+ ms", check.detail), check


def test_a_cancel_reaches_both_nodes(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *ENDLESS, num_devices=4, num_nodes=2)
    cluster.wait_for_step(job_id, 5)
    control.cancel(cluster.database, Doorbell(cluster.settings), job_id, actor="tester")
    assert cluster.wait_for_end(job_id, timeout_s=20)["state"] == "cancelled"
    assert "stopped after step" in cluster.runs(job_id)[-1]["reason"], "all ranks agreed, none was killed"


def test_an_error_on_the_second_node_is_the_cause(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FAILS_ON_RANK_3)
    job_id = cluster.submit(f"{tmp_path}/net.py:Net", data="digits", num_devices=4, num_nodes=2)
    job = cluster.wait_for_end(job_id)
    assert (job["state"], job["failure_class"]) == ("failed", "user"), dict(job)
    assert "rank 3 raised" in job["reason"]
    assert "no such luck" in job["reason"]


@pytest.mark.parametrize("node_rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_worker_is_killed_and_the_job_goes_on(cluster: Cluster, node_rank: int) -> None:
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=4, num_nodes=2)
    cluster.wait_for_step(job_id, 30)
    wait_until(lambda: cluster.artifacts(job_id, "checkpoint"), 20, "a checkpoint")
    name = str(parts_of(cluster, job_id)[node_rank]["worker"])
    cluster.workers[name].kill()
    wait_until(lambda: cluster.job(job_id)["state"] == "queued", 30, "the whole run to end")
    first = cluster.runs(job_id)[0]
    assert (first["state"], first["failure_class"]) == ("requeued", "node-lost"), dict(first)
    cluster.start_worker(name, 2, node=NODES[name])
    job = cluster.wait_for_end(job_id, timeout_s=120)
    assert job["state"] == "succeeded", (job, cluster.log(job_id)[-30:])
    assert any("resuming from step-" in line for line in cluster.log(job_id))


def test_a_drain_on_one_node_stops_all_and_the_job_goes_on_in_another_layout(cluster: Cluster) -> None:
    """`--spread` over both nodes, whose other devices are taken; then on the one that is left."""
    w1, w2 = NODES
    by_worker = {
        w1: cluster.submit("lenet", *ENDLESS, exclude=(NODES[w2],)),
        w2: cluster.submit("lenet", *ENDLESS, exclude=(NODES[w1],)),
    }
    for job_id in by_worker.values():
        cluster.wait_for_step(job_id, 1)
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2, may_spread=True)
    cluster.wait_for_step(job_id, 30)
    head, other = (str(part["worker"]) for part in parts_of(cluster, job_id))
    cluster.workers[other].terminate()
    wait_until(lambda: cluster.workers[other].exit_code() is not None, 30, "the drained worker's end")
    first = cluster.runs(job_id)[0]
    assert (first["state"], first["failure_class"]) == ("requeued", "preempted"), dict(first)
    assert "stopped after step" in first["reason"]
    cluster.cancel(by_worker[head])
    assert cluster.wait_for_end(job_id)["state"] == "succeeded", cluster.log(job_id)[-20:]
    assert [part["worker"] for part in parts_of(cluster, job_id)] == [head]
    assert any("resuming from step-" in line for line in cluster.log(job_id))
    cluster.cancel(by_worker[other])
