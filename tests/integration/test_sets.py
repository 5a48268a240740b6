"""Sets through real workers and ranks: a sweep from end to end, and trials that halving stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dljobs.service.doorbell import Doorbell
from dljobs.service.evaluation import evaluate_here
from dljobs.service.names import Target, member_ids, resolve_job
from dljobs.service.set_control import cancel
from dljobs.service.set_reports import sweep
from dljobs.service.set_submission import enqueue_set, prepare_set
from dljobs.service.submission import Request
from dljobs.service.variation import Variation
from tests.cluster import Cluster, running_cluster


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings: dict[str, Any] = {}
    if request.param == "postgres":
        settings["database_url"] = request.getfixturevalue("postgres_server").url_of_new_database()
    with running_cluster(tmp_path_factory.mktemp("home"), **settings) as cluster:
        cluster.start_worker("w1", 4)
        yield cluster


def submit(cluster: Cluster, training: dict[str, Any], **variation: Any) -> tuple[int, list[int]]:
    new = prepare_set(Request("lenet", training=training), Variation(**variation), "ada")
    submitted = enqueue_set(cluster.database, Doorbell(cluster.settings), cluster.settings, new)
    with cluster.database.read() as connection:
        return submitted.set_id, member_ids(connection, [Target(submitted.set_id, is_set=True)])


def test_a_sweep_of_two_by_two(cluster: Cluster) -> None:
    short = {"epochs": 1, "batch_size": 256}
    set_id, members = submit(cluster, short, sweeps=["lr=0.05,0.000001", "seed=0-1"], max_parallel=2)
    for job_id in members:
        assert cluster.wait_for_end(job_id)["state"] == "succeeded", cluster.log(job_id)
    found = sweep(cluster.database, set_id)
    assert found["state"] == "succeeded"
    values = [trial["value"] for trial in found["trials"]]
    assert values == sorted(values, reverse=True)
    with cluster.database.read() as connection:
        best = resolve_job(connection, f"s{set_id}.best")
    assert best == found["trials"][0]["job_id"]
    measured = evaluate_here(cluster.database, cluster.settings, best, which="best", data=None, device="cpu")
    assert measured["result"]["accuracy"] == values[0]


def test_halving_stops_the_worst(cluster: Cluster) -> None:
    """Two of the trials cannot learn at all; whoever comes to the first rung last, they fall behind there."""
    long = {"epochs": 60, "batch_size": 256, "seed": 0}
    set_id, members = submit(cluster, long, sweeps=["lr=0.1,0.05,1e-9,2e-9"], halving="accuracy:max:2")
    ends = [cluster.wait_for_end(job_id) for job_id in members]
    for job in ends[2:]:
        assert (job["state"], job["failure_class"]) == ("cancelled", "pruned"), (job, cluster.log(job["id"]))
        assert "is place" in job["reason"]
        assert "the best half needed" in job["reason"]
        assert cluster.artifacts(job["id"], "state_dict"), "what it had learned is kept"
    found = sweep(cluster.database, set_id)
    assert found["trials"][0]["best"]
    assert found["trials"][0]["index"] in (0, 1)
    assert found["counts"]["succeeded"] >= 1


def test_a_set_is_cancelled_at_once(cluster: Cluster) -> None:
    set_id, members = submit(cluster, {"epochs": 500}, array="0-5%2")
    cluster.wait_for_step(members[0], 1)
    assert cancel(cluster.database, Doorbell(cluster.settings), set_id, actor="ada")
    assert {cluster.wait_for_end(job_id)["state"] for job_id in members} == {"cancelled"}
