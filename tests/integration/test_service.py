"""A job's whole way through real Redis, a real worker and real ranks, in a world that is unlucky or hostile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from dljobs.service import jobs, offers, tables
from dljobs.service.doorbell import EXECUTE_TASK, Doorbell, make_app, worker_queue
from dljobs.service.jobs import request_cancel
from tests.cluster import Cluster, family_of, running_cluster

SHORT = ("max_steps=3", "epochs=1")
LONG = ("epochs=1000",)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home")) as cluster:
        cluster.start_worker("w1", 4)
        yield cluster


@pytest.mark.parametrize(("strategy", "num_devices"), [("single", 1), ("dp", 2), ("ddp", 2), ("ddp", 4)])
def test_each_strategy_trains_and_leaves_weights(cluster: Cluster, strategy: str, num_devices: int) -> None:
    job_id = cluster.submit("lenet", "epochs=2", strategy=strategy, num_devices=num_devices)
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", job
    assert json.loads(job["result_json"])["num_samples"] == 359, "each test sample counts once"
    (run,) = cluster.runs(job_id)
    assert (run["step"], run["total_steps"], run["epoch"]) == (46, 46, 2)
    assert run["started_at"] <= run["first_step_at"] <= run["ended_at"]
    assert [row["name"] for row in cluster.artifacts(job_id, "state_dict")] == ["epoch-1", "epoch-2"]
    assert any("rank 0 of" in line for line in cluster.log(job_id))
    assert not (cluster.settings.home / "runs" / f"{run['id']}-{run['token'][:8]}").exists()


@pytest.mark.parametrize(("strategy", "num_devices"), [("single", 1), ("dp", 2), ("ddp", 2)])
def test_a_model_with_auxiliary_classifiers_trains(cluster: Cluster, strategy: str, num_devices: int) -> None:
    sets = ("max_steps=2", "data.image_size=64", "size=16", "test_size=4")
    job_id = cluster.submit("googlenet", *sets, strategy=strategy, num_devices=num_devices)
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", cluster.log(job_id)
    assert json.loads(job["result_json"])["num_samples"] == 4


def test_all_metrics_of_a_run_arrive_once(cluster: Cluster) -> None:
    from dljobs.service.metrics import list_points

    job_id = cluster.submit("lenet", "epochs=2", num_devices=2)
    cluster.wait_for_end(job_id)
    with cluster.database.read() as connection:
        points = list_points(connection, [run["id"] for run in cluster.runs(job_id)])
    steps = [point["step"] for point in points if point["split"] == "train" and point["name"] == "loss"]
    assert sorted(set(steps)) == list(range(1, 47))
    assert [p["epoch"] for p in points if p["split"] == "test" and p["name"] == "accuracy"] == [1, 2]


def test_two_jobs_run_side_by_side_on_disjoint_devices(cluster: Cluster) -> None:
    first, second = (cluster.submit("lenet", *LONG, num_devices=2) for _ in range(2))
    for job_id in (first, second):
        cluster.wait_for_state(job_id, "running")
    with cluster.database.read() as connection:
        held = offers.held_devices(connection)
    assert len({row["device_id"] for row in held}) == 4
    assert {row["job_id"] for row in held} == {first, second}
    for job_id in (first, second):
        cancel(cluster, job_id)
        assert cluster.wait_for_end(job_id)["state"] == "cancelled"


def test_cancel_ends_a_running_job_and_leaves_nothing(cluster: Cluster) -> None:
    before = {process.pid for process in family_of(cluster.workers["w1"].pid)}
    job_id = cluster.submit("lenet", *LONG, num_devices=2)
    cluster.wait_for_step(job_id, 5)
    ranks = [p for p in family_of(cluster.workers["w1"].pid) if p.pid not in before]
    assert len(ranks) >= 2
    cancel(cluster, job_id)
    job = cluster.wait_for_end(job_id, timeout_s=15)
    assert (job["state"], job["failure_class"]) == ("cancelled", "cancelled")
    _gone, alive = psutil.wait_procs(ranks, timeout=5)
    assert not alive
    with cluster.database.read() as connection:
        assert not offers.held_devices(connection)


def test_a_waiting_job_is_cancelled_at_once(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", num_devices=64)
    assert cluster.job(job_id)["state"] == "queued"
    cancel(cluster, job_id)
    assert cluster.job(job_id)["state"] == "cancelled"


def test_a_lost_doorbell_costs_a_sweep_only(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *SHORT, ring=False)
    assert cluster.wait_for_end(job_id, timeout_s=20)["state"] == "succeeded"


def test_redis_emptied_while_jobs_wait(cluster: Cluster) -> None:
    blocker = cluster.submit("lenet", *LONG, num_devices=4)
    cluster.wait_for_state(blocker, "running")
    waiting = [cluster.submit("lenet", *SHORT, num_devices=2) for _ in range(3)]
    cluster.redis.client().flushall()
    cancel(cluster, blocker)
    for job_id in waiting:
        assert cluster.wait_for_end(job_id)["state"] == "succeeded"


@pytest.mark.parametrize(
    "arguments", [[10**9, "0" * 32], [1, "f" * 32], [-1, "x"], ["1", "y"], [None, None], [{"$": 1}, ["z"]], []]
)
def test_a_forged_doorbell_changes_nothing(cluster: Cluster, arguments: list[object]) -> None:
    waiting = cluster.submit("lenet", num_devices=64)
    before = snapshot(cluster)
    app = make_app(cluster.settings)
    app.send_task(EXECUTE_TASK, args=arguments, queue=worker_queue("w1"))
    app.send_task("os.system", args=["true"], queue=worker_queue("w1"))
    # Messages of one queue arrive in order: once this job has ended, the forged ones were read.
    after = cluster.submit("lenet", *SHORT)
    assert cluster.wait_for_end(after)["state"] == "succeeded"
    assert {key: row for key, row in snapshot(cluster).items() if key in before} == before
    cancel(cluster, waiting)


def test_a_repeated_doorbell_starts_one_run(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", "epochs=3", num_devices=2)
    cluster.wait_for_state(job_id, "running")
    (run,) = cluster.runs(job_id)
    app = make_app(cluster.settings)
    for _ in range(5):
        app.send_task(EXECUTE_TASK, args=[run["id"], run["token"]], queue=worker_queue("w1"))
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert len(cluster.runs(job_id)) == 1


def test_a_time_limit_ends_the_job_with_that_reason(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *LONG, time_limit_s=2.0)
    job = cluster.wait_for_end(job_id, timeout_s=30)
    assert (job["state"], job["failure_class"]) == ("failed", "time-limit")
    assert cluster.artifacts(job_id, "checkpoint"), "the time limit still leaves a checkpoint"


def test_a_killed_rank_is_requeued_and_resumed(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", "epochs=40", num_devices=2)
    before = cluster.wait_for_step(job_id, 60)
    worker = cluster.workers["w1"].pid
    forkserver_children = [p for p in family_of(worker) if not p.children() and p.pid != worker]
    os.kill(max(forkserver_children, key=lambda p: p.create_time()).pid, signal.SIGKILL)
    job = cluster.wait_for_end(job_id, timeout_s=90)
    assert job["state"] == "succeeded", job
    first, second = cluster.runs(job_id)
    assert (first["state"], first["failure_class"]) == ("requeued", "killed")
    assert "SIGKILL" in first["reason"]
    assert any("resuming from step-" in line for line in cluster.log(job_id))
    assert before["id"] == first["id"]
    assert second["step"] == 40 * 23


def test_the_worker_keeps_its_secrets(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *LONG, num_devices=2)
    cluster.wait_for_step(job_id, 1)
    worker = psutil.Process(cluster.workers["w1"].pid)
    password = (cluster.settings.home / "redis" / "password").read_text().strip()
    for process in worker.children(recursive=True):
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode()
        assert password not in environment
        assert "DLJOBS_REDIS_URL" not in environment
        assert "DLJOBS_DATABASE_URL" not in environment
    assert password not in "\n".join(cluster.log(job_id))
    cancel(cluster, job_id)
    cluster.wait_for_end(job_id)


def cancel(cluster: Cluster, job_id: int) -> None:
    """As `dljobs cancel` does it."""
    with cluster.database.write() as connection:
        request_cancel(connection, job_id, actor="tester")
    Doorbell(cluster.settings).ring_attend("w1", 0)


def snapshot(cluster: Cluster) -> dict[int, object]:
    """All jobs that wait, as rows."""
    with cluster.database.read() as connection:
        return {row["id"]: dict(row) for row in jobs.list_active(connection) if row["state"] in ("queued", "held")}


def test_a_spec_that_no_worker_here_can_read_fails_with_that_reason(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", num_devices=64)
    with cluster.database.write() as connection:
        row = dict(jobs.get_job(connection, job_id))
        newer = (
            row["spec_json"].replace('"version": 1', '"version": 999').replace('"num_devices": 64', '"num_devices": 1')
        )
        values = {"spec_json": newer, "num_devices": 1, "min_devices": 1, "strategy": "single", "num_lost": 4}
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(**values))
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "failed"
    assert "spec has version 999" in job["reason"]
