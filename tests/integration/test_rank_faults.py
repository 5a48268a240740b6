"""What goes wrong in ranks, through a real worker: how it is classified, what is decided, and what the user is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from dljobs.service import control, logs
from dljobs.service.doorbell import Doorbell
from dljobs.service.failures import MAX_LOST_RUNS
from dljobs.service.reports import list_verifications
from dljobs.service.resuming import Changes, prepare_resumption
from dljobs.service.submission import enqueue
from dljobs.service.tables import artifact_blobs, blobs, jobs
from dljobs.service.verifications import prepare_verification
from dljobs.service.waiting import Poll, wait_for_checkpoint
from tests.cluster import Cluster, family_of, running_cluster
from tests.waiting import wait_until

NET = '''
import multiprocessing, os, resource, signal, time
from pathlib import Path

import torch
from torch import nn


def feed(pid_file):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid_file.write_text(str(os.getpid()))
    time.sleep(600)


class Net(nn.Module):
    """Does what it is told at its fourth batch, unless the file `once` says that it has."""

    def __init__(self, does: str = "nothing", on_rank: int = 0, once: str = "", step_s: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.Dropout(0.3), nn.Linear(8, 10))
        self.does, self.is_mine = does, int(os.environ.get("RANK", 0)) == on_rank
        self.once, self.step_s, self.num = Path(once or "/nowhere/once"), step_s, 0

    def forward(self, x):
        if self.training:
            time.sleep(self.step_s)
            self.num += 1
            if self.num == 4 and self.is_mine and not self.once.is_file():
                if self.once.parent.is_dir():
                    self.once.touch()
                getattr(self, self.does)()
            if self.num == 12 and self.does == "fill_the_disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return self.layers(x)

    def nothing(self):
        pass

    def raise_an_error(self):
        raise ValueError("the labels are upside down")

    def exhaust_the_host(self):
        raise MemoryError("no room for 40 GiB")

    def exhaust_the_gpu(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")

    def hang(self):
        time.sleep(600)

    def fill_the_disk(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    def be_stubborn(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        multiprocessing.get_context("fork").Process(target=feed, args=[self.once.with_suffix(".pid")]).start()
        time.sleep(600)
'''
DATA = """
import torch
from dljobs.models.data import Data, TensorSplit

def make_data(n: int = 64):
    x = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(x, torch.arange(n) % 10)
    return Data(split, split, sample_shape=(1, 32, 32), num_classes=10)
"""
SLOW_DATA = "import time\n\ndef load(root):\n    print('loading', flush=True)\n    time.sleep(600)\n"
HUNG_AFTER_S = 1.5


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home"), hung_after_s=HUNG_AFTER_S) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    shared_cluster.ensure_workers("w1")
    return shared_cluster


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return "./net.py:Net"


def submit(cluster: Cluster, net: str, *sets: str, **request: Any) -> int:
    """8 batches an epoch."""
    request = {"data": "./data.py:make_data", "num_devices": 2, "max_retries": 0, **request}
    given = "epochs=2" if not any(each.startswith("epochs=") for each in sets) else "log_every=1"
    return cluster.submit(net, given, "batch_size=8", *sets, **request)


def evidence_of(run: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run["evidence_json"])
    return found


def test_a_rank_that_raises_is_told_with_its_traceback_and_not_tried_again(cluster: Cluster, net: str) -> None:
    before = {process.pid for process in family_of(cluster.workers["w1"].pid)}
    job_id = submit(cluster, net, "does=raise_an_error", "on_rank=1", max_retries=3)
    job = cluster.wait_for_end(job_id)
    (run,) = cluster.runs(job_id)
    assert (job["failure_class"], job["num_retries"]) == ("user", 0)
    error = json.loads(run["error_json"])
    assert (error["rank"], error["exception"]) == (1, "ValueError")
    assert "upside down" in error["message"]
    assert "in raise_an_error" in error["traceback"]
    assert run["ended_at"] - error_at(cluster, job_id) < 5, "the other rank held it up"
    assert [each["exception"] for each in evidence_of(run)["errors"] if not each["secondary"]] == ["ValueError"]
    after = {process.pid for process in family_of(cluster.workers["w1"].pid)}
    assert after <= before, "the other rank stayed"


def error_at(cluster: Cluster, job_id: int) -> float:
    with cluster.database.read() as connection:
        lines = logs.list_lines(connection, [run["id"] for run in cluster.runs(job_id)])
    return float(next(line["at"] for line in lines if "Traceback" in line["line"]))


@pytest.mark.parametrize(("does", "whose"), [("exhaust_the_host", "host"), ("exhaust_the_gpu", "CUDA")])
def test_memory_that_ran_out_is_said_to_be_the_hosts_or_cudas(
    cluster: Cluster, net: str, does: str, whose: str
) -> None:
    job_id = submit(cluster, net, f"does={does}", num_devices=1)
    job = cluster.wait_for_end(job_id)
    assert job["failure_class"] == "oom"
    assert f"rank 0 ran out of {whose} memory" in job["reason"]
    assert cluster.runs(job_id)[0]["decision"].startswith("the job failed")


def test_a_hung_rank_leaves_all_stacks_and_the_job_goes_on(cluster: Cluster, net: str, tmp_path: Path) -> None:
    job_id = submit(cluster, net, "does=hang", "on_rank=1", f"once={tmp_path / 'once'}", max_retries=1)
    job = cluster.wait_for_end(job_id)
    assert (job["state"], job["num_retries"]) == ("succeeded", 1), cluster.log(job_id)
    first, _second = cluster.runs(job_id)
    assert (first["state"], first["failure_class"]) == ("requeued", "hung")
    assert "no step for" in first["reason"]
    assert first["decision"].startswith("queued again, retry 1 of 1, after")
    stacks = evidence_of(first)["stacks"]
    assert stacks["1"].startswith("hang (net.py:")
    assert set(stacks) == {"0", "1"}, "rank 0 waits for rank 1"
    log = cluster.log(job_id)
    assert any("the stacks of all ranks follow" in line for line in log)
    assert sum("most recent call first" in line for line in log) >= 2


def test_a_slow_evaluation_or_a_slow_step_is_no_hang(cluster: Cluster, net: str) -> None:
    job_id = submit(cluster, net, f"step_s={HUNG_AFTER_S * 0.6}", "max_steps=5", num_devices=1)
    assert cluster.wait_for_end(job_id)["state"] == "succeeded"


def test_a_job_that_takes_every_worker_down_fails_with_its_history(cluster: Cluster, net: str, tmp_path: Path) -> None:
    """And a killed worker takes along ranks that ignore SIGTERM, with their children, and leaves no folder."""
    job_id = submit(cluster, net, "does=be_stubborn", f"once={tmp_path / 'once'}", num_devices=1)
    with cluster.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(num_lost=MAX_LOST_RUNS - 1))
    child = tmp_path / "once.pid"
    wait_until(lambda: child.exists() and child.read_text(), 60, "the rank's child")
    worker = cluster.workers["w1"]
    family = [*family_of(worker.pid), psutil.Process(int(child.read_text()))]
    worker.kill()
    _gone, alive = psutil.wait_procs(family, timeout=6)
    assert not alive, "ranks or their children outlived their worker"
    cluster.ensure_workers("w1")
    job = cluster.wait_for_end(job_id)
    assert (job["state"], job["failure_class"]) == ("failed", "node-lost")
    assert f"{MAX_LOST_RUNS} runs in a row were lost: run 1 on w1 (node-lost)" in job["reason"]
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    assert not list(temporary.glob(f"dljobs-worker-{worker.pid}-*"))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(cluster: Cluster, net: str) -> None:
    job_id = submit(cluster, net, "does=fill_the_disk", "checkpoint_every_steps=5", num_devices=1)
    job = cluster.wait_for_end(job_id)
    log = cluster.log(job_id)
    assert job["state"] == "succeeded", log
    assert any("WARNING: checkpoint step-5 was dropped: no room left" in line for line in log)
    names = [row["name"] for row in cluster.artifacts(job_id, "checkpoint")]
    assert "step-5" not in names
    assert "step-16" in names, "the next chance was taken"


def test_a_checkpoint_on_request_is_where_another_job_goes_on_exactly(cluster: Cluster, net: str) -> None:
    """Cut in mid-epoch of a model that draws, and continued by hand; then over a checkpoint that has rotted."""
    slow = ["step_s=0.1", "checkpoint_every_epochs=0", "micro_batch_size=2"]
    job_id = submit(cluster, net, *slow, num_devices=2)
    cluster.wait_for_step(job_id, 1)
    run, is_rung = control.checkpoint(cluster.database, Doorbell(cluster.settings), job_id, actor="ada")
    assert is_rung
    saved = wait_for_checkpoint(cluster.database, run, poll=Poll(30))
    assert 1 <= saved["step"] < 16
    whole = cluster.wait_for_end(job_id)
    again = go_on(cluster, f"{job_id}:{saved['name']}")
    assert cluster.wait_for_end(again)["state"] == "succeeded", cluster.log(again)
    assert digest_of(cluster, again) == json.loads(whole["result_json"])["weights_sha256"]
    assert any(f"resuming from {saved['name']} of job {job_id}, run 1" in line for line in cluster.log(again))
    assert any("exactly" in line for line in cluster.log(again))
    last = cluster.artifacts(job_id, "checkpoint")[-1]
    assert last["name"] == "step-16"
    rot(cluster, last["id"])
    back = go_on(cluster, f"{job_id}", epochs=3)
    assert cluster.wait_for_end(back)["state"] == "succeeded", cluster.log(back)
    assert any("(step-16) is corrupt" in line and "going back" in line for line in cluster.log(back))
    assert any(f"resuming from {saved['name']} of job {job_id}" in line for line in cluster.log(back))
    rot(cluster, saved["id"])
    lost = go_on(cluster, f"{job_id}:{saved['name']}", lr=0.5)
    job = cluster.wait_for_end(lost)
    assert (job["state"], job["failure_class"]) == ("failed", "data")
    assert f"no checkpoint of job {job_id} that this job could continue from is whole any more" in job["reason"]
    assert any("going back to an earlier checkpoint" in line for line in cluster.log(lost))


def test_a_stop_is_heard_while_data_are_loaded(cluster: Cluster, net: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_DATA)
    job_id = submit(cluster, net, data="./slow.py:load", num_devices=1)
    wait_until(lambda: "loading" in cluster.log(job_id), 30, "the loading")
    asked_at = time.monotonic()
    cluster.cancel(job_id)
    assert cluster.job(job_id)["state"] == "cancelled"
    assert time.monotonic() - asked_at < cluster.settings.grace_s / 2, "there was nothing to wait for"


def test_a_replay_gives_the_weights_that_were_stored(cluster: Cluster, net: str) -> None:
    job_id = submit(cluster, net, "epochs=3", "keep_checkpoints_every=1", num_devices=2)
    cluster.wait_for_end(job_id)
    new = prepare_verification(cluster.database, f"{job_id}:step-8", 99, "ada")
    by_job = enqueue(cluster.database, Doorbell(cluster.settings), new).job_id
    assert cluster.wait_for_end(by_job)["state"] == "succeeded", cluster.log(by_job)
    [verdict] = list_verifications(cluster.database, job_id)
    assert (verdict["from_step"], verdict["to_step"], verdict["is_exact"]) == (8, 24, True)
    assert (verdict["run"], verdict["by_job_id"], verdict["result"]["differences"]) == (1, by_job, [])
    assert cluster.artifacts(by_job) == []


def go_on(cluster: Cluster, reference: str, **training: Any) -> int:
    new = prepare_resumption(cluster.database, reference, Changes(training=training), "ada")
    return enqueue(cluster.database, Doorbell(cluster.settings), new).job_id


def digest_of(cluster: Cluster, job_id: int) -> str:
    result: str = json.loads(cluster.job(job_id)["result_json"])["weights_sha256"]
    return result


def rot(cluster: Cluster, artifact_id: int) -> None:
    """One byte of the artifact is another one now."""
    with cluster.database.write() as connection:
        first = artifact_blobs.select().where(artifact_blobs.c.artifact_id == artifact_id).order_by("number")
        digest = connection.execute(first).mappings().first()["digest"]  # type: ignore[index]
        connection.execute(update(blobs).where(blobs.c.digest == digest).values(data=b"rotten"))
