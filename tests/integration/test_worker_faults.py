"""Workers that are drained, killed, frozen and replaced in mid-run: nothing is lost, nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from dljobs.service import control, offers, schema
from dljobs.service.doorbell import Doorbell
from dljobs.service.planned import make_plan
from dljobs.service.worker_process import WorkerProcess
from tests.cluster import Cluster, family_of, running_cluster
from tests.waiting import wait_until

# Long enough to be interrupted, short enough to be finished afterwards: 30 epochs of 23 steps.
INTERRUPTIBLE = ("epochs=30",)
NUM_STEPS = 30 * 23
ENDLESS = ("epochs=100000",)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home"), grace_s=60.0) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Two workers of 4 devices each, alive, with nothing on them."""
    shared_cluster.ensure_workers("w1", "w2")
    return shared_cluster


def test_sigterm_drains_and_the_next_worker_resumes(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2)
    cluster.wait_for_step(job_id, 30)
    worker = cluster.worker_of(job_id)
    worker.terminate()
    wait_until(lambda: worker.exit_code() is not None, 20, "the drained worker's end")
    assert worker.exit_code() == 0
    first = cluster.runs(job_id)[0]
    assert (first["state"], first["failure_class"]) == ("requeued", "preempted")
    assert "stopped after step" in first["reason"]
    stopped_at = max(row["step"] for row in cluster.artifacts(job_id, "checkpoint") if row["run_number"] == 1)
    assert first["step"] == stopped_at >= 30
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert f"resuming from step-{stopped_at} of run 1" in cluster.log(job_id)
    undisturbed = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2)
    cluster.wait_for_end(undisturbed)
    assert digest(cluster, job_id) == digest(cluster, undisturbed), "the interruption changed the weights"


def test_a_drained_node_gives_back_what_it_runs_and_goes_on_when_it_may(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2)
    cluster.wait_for_step(job_id, 30)
    with cluster.database.read() as connection:
        node = offers.list_workers(connection)[0]["node"]
    doorbell = Doorbell(cluster.settings)
    assert control.drain(cluster.database, doorbell, node, actor="ada", reason="new fan", evict=True)
    cluster.wait_for_state(job_id, "queued", timeout_s=20)
    assert cluster.runs(job_id)[0]["failure_class"] == "preempted"
    with cluster.database.read() as connection:
        [reason] = make_plan(connection, lease_s=60.0).reasons(job_id)
    assert "is drained: new fan" in reason.text
    assert control.undrain(cluster.database, doorbell, node, actor="ada")
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert len(cluster.runs(job_id)) == 2


def test_a_second_sigterm_is_immediate(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *ENDLESS, num_devices=2)
    cluster.wait_for_step(job_id, 1)
    worker = cluster.worker_of(job_id)
    ranks = ranks_of(worker)
    for rank in ranks:
        rank.suspend()  # it cannot stop by itself, and the grace time is a minute
    worker.terminate()
    wait_until(lambda: "draining" in worker_states(cluster), 10, "the drain")
    worker.terminate()
    wait_until(lambda: worker.exit_code() is not None, 20, "the worker's end")
    _gone, alive = psutil.wait_procs(ranks, timeout=5)
    assert not alive
    assert cluster.runs(job_id)[0]["state"] == "requeued"
    cluster.cancel(job_id)


def test_a_migration_under_running_workers_drains_them(cluster: Cluster) -> None:
    """The rolling upgrade: workers of the old release give back what they run, and those of the new one go on."""
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2)
    cluster.wait_for_step(job_id, 30)
    workers = list(cluster.workers.values())
    set_revision(cluster, "9999")
    try:
        wait_until(lambda: all(worker.exit_code() is not None for worker in workers), 20, "the end of both workers")
        assert {worker.exit_code() for worker in workers} == {1}, "so that systemd starts what is installed by then"
        assert cluster.runs(job_id)[0]["failure_class"] == "preempted"
    finally:
        set_revision(cluster, schema.HEAD)
    cluster.ensure_workers("w1", "w2")
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    assert any("resuming from" in line for line in cluster.log(job_id))


def set_revision(cluster: Cluster, revision: str) -> None:
    with cluster.database.write() as connection:
        connection.execute(text("UPDATE dljobs_version SET version_num = :revision"), {"revision": revision})


def test_a_killed_worker_takes_its_ranks_along_and_the_job_resumes_at_once_on_restart(cluster: Cluster) -> None:
    # More devices than are left elsewhere: only the restarted worker can take it.
    elsewhere = cluster.submit("lenet", *ENDLESS, num_devices=1)
    cluster.wait_for_state(elsewhere, "running")
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=4)
    wait_until(lambda: cluster.artifacts(job_id, "checkpoint"), 60, "a checkpoint")
    worker = cluster.worker_of(job_id)
    family = family_of(worker.pid)
    worker.kill()
    _gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive, "ranks outlived their worker"
    cluster.ensure_workers("w1", "w2")
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    first, second = cluster.runs(job_id)
    assert (first["state"], first["failure_class"]) == ("requeued", "node-lost")
    assert second["step"] == NUM_STEPS
    assert any("resuming from" in line for line in cluster.log(job_id))
    cluster.cancel(elsewhere)


def test_a_killed_worker_loses_its_lease_and_another_takes_over(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *INTERRUPTIBLE, num_devices=2)
    cluster.wait_for_state(job_id, "running")
    cluster.worker_of(job_id).kill()
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"
    first, second = cluster.runs(job_id)
    assert first["failure_class"] == "node-lost"
    assert "went silent" in first["reason"]
    assert first["worker_id"] != second["worker_id"]


def test_a_worker_that_comes_back_late_changes_nothing(cluster: Cluster) -> None:
    job_id = cluster.submit("lenet", *ENDLESS, num_devices=2)
    cluster.wait_for_step(job_id, 1)
    frozen = cluster.worker_of(job_id)
    ranks = ranks_of(frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    wait_until(lambda: len(cluster.runs(job_id)) == 2, 40, "a second run, on the other worker")
    before = dict(cluster.runs(job_id)[0])
    os.kill(frozen.pid, signal.SIGCONT)
    _gone, alive = psutil.wait_procs(ranks, timeout=15)
    assert not alive, "the ranks of a lost run must be killed on return"
    cluster.wait_for_step(job_id, 5)
    assert dict(cluster.runs(job_id)[0]) == before, "the late worker wrote to a run that was no longer its own"
    assert frozen.exit_code() is None, "it goes on as a worker"
    cluster.cancel(job_id)


def test_a_second_worker_of_the_same_name_is_refused(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    second = WorkerProcess(cluster.settings, {"gpus": None, "cpu_devices": 4, "name": "w1"})
    wait_until(lambda: second.exit_code() is not None, 30, "the refused worker's end")
    second.close()
    assert second.exit_code() == 2
    said = capfd.readouterr().err
    assert "a worker named 'w1' already runs on node" in said
    assert "Traceback" not in said


def test_jobs_start_without_redis_and_workers_consume_again(tmp_path: Path, redis_server) -> None:  # type: ignore[no-untyped-def]
    with running_cluster(tmp_path / "home", redis_url=redis_server.url) as cluster:
        cluster.start_worker("w1")
        redis_server.kill()
        try:
            while_down = cluster.submit("lenet", "epochs=1", num_devices=2)
            assert cluster.wait_for_end(while_down)["state"] == "succeeded"
        finally:
            redis_server.start()
        # With the sweep out of the way only a doorbell can start it in time: the consumer is back.
        wait_until(lambda: queue_is_read(cluster), 40, "the consumer's return")
        assert cluster.wait_for_end(cluster.submit("lenet", "epochs=1"))["state"] == "succeeded"


@pytest.mark.parametrize(
    ("sets", "failure_class", "words"),
    [
        (("lr=1000", "weight_decay=1000", "epochs=3"), "user", "step"),
        (("max_steps=1", "epochs=1"), None, "finished"),
    ],
)
def test_ends_are_told_apart(cluster: Cluster, sets: tuple[str, ...], failure_class: str | None, words: str) -> None:
    job_id = cluster.submit("lenet", *sets, num_devices=2)
    job = cluster.wait_for_end(job_id)
    assert job["failure_class"] == failure_class
    assert words in job["reason"]
    if failure_class:
        error = json.loads(cluster.runs(job_id)[0]["error_json"])
        assert "nan" in error["message"] or "inf" in error["message"]
    with cluster.database.read() as connection:
        assert not offers.held_devices(connection)


def digest(cluster: Cluster, job_id: int) -> str:
    return str(json.loads(cluster.job(job_id)["result_json"])["weights_sha256"])


def ranks_of(worker: WorkerProcess) -> list[psutil.Process]:
    """The processes whose parent is the worker's forkserver."""
    direct = psutil.Process(worker.pid).children()
    return [rank for server in direct for rank in server.children()]


def worker_states(cluster: Cluster) -> set[str]:
    with cluster.database.read() as connection:
        return {row["state"] for row in offers.list_workers(connection)}


def queue_is_read(cluster: Cluster) -> bool:
    """Whether a message put into the shared queue is taken out of it."""
    from redis import Redis

    from dljobs.service.doorbell import SCHEDULE_QUEUE, Doorbell

    Doorbell(cluster.settings).ring_schedule()
    with Redis.from_url(cluster.settings.redis_url) as client:
        return client.llen(f"dljobs:{SCHEDULE_QUEUE}") == 0
