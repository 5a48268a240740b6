"""What only a CUDA device can show. Skipped without one; `pytest tests/gpu` on a machine that has one or more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.service.gpus import Nvml, list_gpus
from dljobs.workers.devices import find_gpus
from dljobs.workers.health import GpuCheck
from tests.cluster import Cluster, running_cluster

GPUS, PROBLEM = list_gpus()
pytestmark = pytest.mark.skipif(not GPUS, reason=PROBLEM or "this machine has no NVIDIA GPU")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("home")) as cluster:
        cluster.start_worker("g", cpu_devices=None, gpus="0")  # type: ignore[arg-type]
        yield cluster


def test_gpus_are_known_by_uuid() -> None:
    (first, *_) = find_gpus()
    assert first.uuid.startswith("GPU-")
    assert first.kind == "cuda"
    assert first.memory_bytes


def test_lenet_trains_on_the_gpu_and_evaluates_equal_on_the_cpu(cluster: Cluster, tmp_path: Path) -> None:
    job_id = cluster.submit("lenet")
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", job
    assert json.loads(job["result_json"])["accuracy"] >= 0.97
    assert any("on cuda" in line for line in cluster.log(job_id))


def test_an_idle_gpu_is_well_and_one_with_a_stranger_is_not() -> None:
    first = find_gpus()[0]
    check = GpuCheck(Nvml().state)
    row = {"uuid": first.uuid, "kind": first.kind}
    assert check(row) == []  # type: ignore[arg-type]
    hold = "import torch; x = torch.ones(9, device='cuda'); print(flush=True); input()"
    start = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {hold!r}], stdin=0).pid, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        pid = int(stranger.stdout.readline())
        stranger.stdout.readline()  # it holds memory now
        faults = check(row)  # type: ignore[arg-type]
        assert stranger.stdin is not None
        stranger.stdin.close()
    assert [fault.key for fault in faults] == [f"process {pid}"], faults
    [nowhere] = check({**row, "uuid": "GPU-0"})  # type: ignore[arg-type]
    assert nowhere.text.startswith("it does not answer")


def test_the_ranks_leave_no_memory_behind(cluster: Cluster) -> None:
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(find_gpus()[0].uuid)
        cluster.wait_for_end(cluster.submit("lenet", "epochs=1"))
        assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    finally:
        pynvml.nvmlShutdown()


def test_data_parallel_splits_a_batch() -> None:
    """One GPU is enough: DataParallel over the same device twice scatters for real."""
    import torch

    from dljobs.models.lenet import LeNet

    seen: list[int] = []

    class Seen(LeNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(x)

    model = torch.nn.DataParallel(Seen().cuda(), device_ids=[0, 0])
    assert model(torch.zeros(9, 1, 32, 32, device="cuda")).shape == (9, 10)
    assert sorted(seen) == [4, 5]


def test_stored_weights_come_straight_onto_the_gpu(tmp_path: Path) -> None:
    import torch

    from dljobs.workers.stored_weights import load_state_dict
    from tests.unit.test_stored_weights import STATE_DICT, stored

    found = load_state_dict(stored(STATE_DICT, tmp_path), "cuda")
    assert {tensor.device.type for tensor in found.values()} == {"cuda"}
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in STATE_DICT.items())
