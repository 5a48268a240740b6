"""Training over real ranks: the same job on 1, 2 and 4 of them learns the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dljobs.service.spec import JobSpec, Training
from dljobs.workers.folder import RunFolder, RunRequest
from dljobs.workers.launcher import Launcher
from tests.small_jobs import NUM_TEST, events_of, train_losses, write_small
from tests.waiting import wait_until

TIMEOUT_S = 90.0


def train(launcher: Launcher, folder: RunFolder, world_size: int) -> RunFolder:
    launch = launcher.launch(folder, world_size)
    assert launch.wait(TIMEOUT_S), "the ranks are still running"
    logs = "\n".join(folder.log(r).read_text() for r in range(world_size))
    assert [end.exitcode for end in launch.exits] == [0] * world_size, logs
    return folder


def train_small(launcher: Launcher, folder: Path, world_size: int, model: str = "tiny", **changes: Any) -> RunFolder:
    return train(launcher, write_small(folder, model, world_size, **changes), world_size)


def lenet_request(folder: Path, data_dir: Path, world_size: int, **changes: Any) -> RunFolder:
    declared = {"batch_size": 64, "lr": 0.05, "momentum": 0.9, "channels_last": True}
    training: dict[str, Any] = {**declared, "epochs": 1, "seed": 1, **changes}
    spec = JobSpec(
        model="lenet", data="digits", loss="cross_entropy", metric="accuracy", goal="max",
        strategy="ddp" if world_size > 1 else "single", num_devices=world_size, training=Training(**training),
    )  # fmt: skip
    devices = [f"cpu-{number}" for number in range(world_size)]
    RunRequest(
        job_id=1, run_number=1, spec=spec, device_kind="cpu", devices=devices, world_size=world_size, num_threads=1,
        data_dir=str(data_dir), folder=str(folder),
    ).write()  # fmt: skip
    return RunFolder(folder)


@pytest.fixture(scope="module")
def zoo_launcher(launcher: Launcher) -> Launcher:
    """Ranks as users have them; it shares the forkserver with `launcher`, which also ends it."""
    return Launcher(keeper=launcher.keeper)


def test_lenet_learns_the_same_on_1_2_and_4_ranks(zoo_launcher: Launcher, tmp_path: Path, data_dir: Path) -> None:
    """The ranks add the same float32 numbers in another order, so losses differ by rounding, which training amplifies.

    One reassociated sum is off by some 1e-7 of its size, and in the first epoch that stays so (measured: 2e-7 over 23
    steps): 1e-5 leaves fifty times that. Later on a difference of one bit now and then flips a maximum of a pooling
    window or a ReLU at zero, which shifts the loss by 1e-3 to 2e-2 at once (measured in the third epoch): hence 5e-2.
    That a ragged batch is weighted exactly is shown without such flips by the test that follows.
    """
    runs = {}
    for world_size in (1, 2, 4):
        folder = lenet_request(tmp_path / str(world_size), data_dir, world_size, epochs=2)
        runs[world_size] = train(zoo_launcher, folder, world_size)
    single = train_losses(runs[1])
    (plan,), (finished,) = (events_of(runs[1], type_=type_) for type_ in ("plan", "finished"))
    first_epoch = plan["steps_per_epoch"]
    assert len(single) == 2 * first_epoch == finished["result"]["step"]
    for world_size in (2, 4):
        losses = train_losses(runs[world_size])
        assert losses[:first_epoch] == pytest.approx(single[:first_epoch], rel=1e-5)
        assert losses == pytest.approx(single, rel=5e-2)
        (same,) = events_of(runs[world_size], type_="finished")
        assert same["result"]["accuracy"] == pytest.approx(finished["result"]["accuracy"], abs=0.02)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ragged_batches_and_ranks_without_samples_change_nothing(
    launcher: Launcher, tmp_path: Path, world_size: int
) -> None:
    """The last batch of each epoch has 2 samples; of 4 ranks, two have none."""
    changes: dict[str, Any] = {"epochs": 3, "lr": 0.05, "clip_norm": 0.5}
    single = train_small(launcher, tmp_path / "single", 1, **changes)
    several = train_small(launcher, tmp_path / "several", world_size, **changes)
    assert train_losses(several) == pytest.approx(train_losses(single), rel=1e-5)
    plans = [events_of(folder, type_="plan")[0] | {"at": 0} for folder in (single, several)]
    assert plans[0] == plans[1]
    results = [events_of(folder, type_="finished")[0]["result"] for folder in (single, several)]
    assert results[0]["num_samples"] == results[1]["num_samples"] == NUM_TEST
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    assert results[1]["per_class"] == results[0]["per_class"]


@pytest.mark.parametrize("model", ["tiny", "conv"])
def test_sums_in_shared_memory_are_those_of_gloo(launcher: Launcher, tmp_path: Path, model: str) -> None:
    """Of two numbers there is one sum only: the weights have the same bits."""
    ours, gloos = (train_small(launcher, tmp_path / name, 2, name) for name in (model, f"{model}-gloo"))
    for folder, told in ((ours, "ddp, sums in shared memory\n"), (gloos, "ddp\n")):
        assert folder.log(0).read_text().startswith(f"rank 0 of 2 on cpu, 1 thread, {told}")
    assert train_losses(ours) == train_losses(gloos)
    results = [events_of(folder, type_="finished")[0]["result"] for folder in (ours, gloos)]
    for key in ("weights_sha256", "loss", "per_class", "best"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    ("model", "micro_batch_size"),
    [
        ("tiny", 3),  # the last batch of an epoch is one micro-batch, and of 3 ranks one has no sample in it
        ("is-greedy", 0),  # the last rank alone runs out of memory: all take smaller pieces
    ],
)
def test_ranks_add_up_micro_batches_to_the_same_gradient(
    launcher: Launcher, tmp_path: Path, model: str, micro_batch_size: int
) -> None:
    changes: dict[str, Any] = {"epochs": 3, "lr": 0.05, "clip_norm": 0.5}
    whole = train_small(launcher, tmp_path / "whole", 3, "tiny", **changes)
    pieces = train_small(launcher, tmp_path / "pieces", 3, model, micro_batch_size=micro_batch_size, **changes)
    if model == "tiny":
        assert train_losses(pieces) == pytest.approx(train_losses(whole), rel=1e-5)
    else:
        assert "each rank takes 3 at a time" in pieces.log(0).read_text()


def test_ranks_that_read_ahead_learn_the_same(launcher: Launcher, tmp_path: Path) -> None:
    alone, ahead = (train_small(launcher, tmp_path / str(num), 2, "reads", readers=num) for num in (0, 2))
    assert "each rank has 2 processes that read ahead" in ahead.log(0).read_text()
    assert train_losses(ahead) == train_losses(alone)
    results = [events_of(folder, type_="finished")[0]["result"]["weights_sha256"] for folder in (alone, ahead)]
    assert results[0] == results[1]


def test_a_reader_that_is_killed_ends_the_run_and_says_so(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "reads-deadly", 1, readers=2), 1)
    assert launch.wait(TIMEOUT_S)
    (error,) = events_of(launch.folder, type_="error")
    assert (error["exception"], error["failure_class"]) == ("ReaderLost", "killed")
    assert "--set readers=0" in error["hint"]
    assert [end.exitcode for end in launch.exits] == [1]


def test_readers_die_with_their_rank(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "reads-slow", 1, readers=2, epochs=100), 1)
    wait_until(lambda: events_of(launch.folder, type_="first_step"), TIMEOUT_S, "the first step")
    (pid,) = launch.pids
    readers = psutil.Process(pid).children()
    assert len(readers) == 2
    os.kill(pid, signal.SIGKILL)
    assert launch.wait(TIMEOUT_S)
    wait_until(lambda: not any(reader.is_running() for reader in readers), TIMEOUT_S, "the readers' end")


def test_a_summed_loss_is_the_sum_over_all_ranks(launcher: Launcher, tmp_path: Path) -> None:
    folders = {
        world_size: train_small(
            launcher,
            tmp_path / str(world_size),
            world_size,
            "tiny-sse",
            loss="sse",
            metric="loss",
            goal="min",
            lr=0.001,
        )
        for world_size in (1, 2)
    }
    assert train_losses(folders[2]) == pytest.approx(train_losses(folders[1]), rel=1e-5)
    assert train_losses(folders[1])[0] > 16  # a sum over 16 samples, not their mean


def test_only_rank_0_reports(launcher: Launcher, tmp_path: Path) -> None:
    folder = train_small(launcher, tmp_path, 2)
    assert [event["type"] for event in events_of(folder, 1)] == ["started"]


def test_evaluation_over_several_ranks_counts_each_sample_once(launcher: Launcher, tmp_path: Path) -> None:
    trained = train_small(launcher, tmp_path / "train", 1)
    (finished,) = events_of(trained, type_="finished")
    state_dict = str(trained.artifacts / "epoch-3.safetensors")
    folder = train_small(
        launcher, tmp_path / "eval", 3, kind="evaluate", artifact_id=1, state_dict=state_dict, batch_size=15
    )
    (result,) = events_of(folder, type_="finished")
    assert result["result"]["per_class"] == finished["result"]["per_class"]
    assert result["result"]["num_samples"] == NUM_TEST
    (artifact,) = events_of(folder, type_="artifact")
    assert sum(map(sum, json.loads(Path(artifact["path"]).read_text())["confusion"])) == NUM_TEST


def test_a_nan_loss_fails_on_every_rank_with_its_step(launcher: Launcher, tmp_path: Path) -> None:
    launch = launcher.launch(write_small(tmp_path, "gives-nan", 2), 2)
    assert launch.wait(TIMEOUT_S)
    errors = [error for number in range(2) for error in events_of(launch.folder, number, "error")]
    assert errors
    assert {error["message"] for error in errors if not error["secondary"]} == {"loss is nan at step 6 (epoch 2)"}
    assert all(error["exception"] == "NonFiniteLoss" and error["hint"] for error in errors if not error["secondary"])
    assert [end.exitcode for end in launch.exits] == [1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount = shutil.which("mount")
    path = tmp_path / "disk"
    path.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "none", path], check=False).returncode:
        pytest.skip("this container may not mount")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(disk: Path) -> Path:
    """Leave room for events and logs, but for no artifact of the model "large"; returns the file to delete."""
    ballast, free = disk / "ballast", os.statvfs(disk)
    ballast.write_bytes(b"x" * (free.f_bavail * free.f_frsize - (100 << 10)))
    return ballast


def test_a_full_disk_drops_checkpoints_loudly_and_fails_at_the_end(launcher: Launcher, small_disk: Path) -> None:
    folder = write_small(small_disk, "large")
    fill(small_disk)
    launch = launcher.launch(folder, 1)
    assert launch.wait(TIMEOUT_S)
    (error,) = events_of(folder, type_="error")
    assert (error["exception"], error["failure_class"]) == ("StorageFull", "storage")
    assert "epoch-3" in error["message"]
    assert error["hint"]
    log = folder.log(0).read_text()
    assert "WARNING: state_dict epoch-1 was dropped" in log
    assert "WARNING: checkpoint step-4 was dropped" in log
    assert list(folder.artifacts.iterdir()) == []
    assert len(train_losses(folder)) == 12, "training itself went on to its end"


def test_room_that_comes_back_is_used(launcher: Launcher, small_disk: Path) -> None:
    folder = write_small(small_disk, "large-slow")
    ballast = fill(small_disk)
    launch = launcher.launch(folder, 1)
    log = folder.log(0)
    wait_until(lambda: log.exists() and "was dropped" in log.read_text(), 30, "an artifact that was dropped")
    ballast.unlink()
    assert launch.wait(TIMEOUT_S)
    assert [end.exitcode for end in launch.exits] == [0], log.read_text()
    assert events_of(folder, type_="finished")
