"""Exact resume over real ranks: a run that was stopped and continued ends with the very same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dljobs.workers.channel import Control, write_control
from dljobs.workers.folder import RunFolder
from dljobs.workers.launcher import Launcher
from tests.small_jobs import events_of, train_losses, write_small

TIMEOUT_S = 60.0
CHANGES: dict[str, Any] = {"optimizer": "adam", "schedule": "cosine", "lr": 0.01, "epochs": 2}


def train(launcher: Launcher, folder: Path, world_size: int, model: str = "dropout-slow", **changes: Any) -> RunFolder:
    launch = launcher.launch(write_small(folder, model, world_size, **{**CHANGES, **changes}), world_size)
    assert launch.wait(TIMEOUT_S), "the ranks are still running"
    assert [end.exitcode for end in launch.exits] == [0] * world_size, launch.folder.log(0).read_text()
    return launch.folder


def stop_after_first_step(launcher: Launcher, folder: Path, world_size: int, **changes: Any) -> tuple[Path, int]:
    """Drain a run as soon as it has begun; its last checkpoint, and the step of that."""
    prepared = write_small(folder, "dropout-slow", world_size, **{**CHANGES, **changes})
    launch = launcher.launch(prepared, world_size)
    write_control(prepared.control_json, Control(stop="drain"))
    assert launch.wait(TIMEOUT_S)
    (stopped,) = events_of(prepared, type_="stopped")
    checkpoint = events_of(prepared, type_="artifact")[-1]
    assert (checkpoint["kind"], checkpoint["step"]) == ("checkpoint", stopped["step"])
    return Path(checkpoint["path"]), stopped["step"]


def result_of(folder: RunFolder) -> dict[str, Any]:
    (finished,) = events_of(folder, type_="finished")
    result: dict[str, Any] = finished["result"]
    return result


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 8), (2, 8), (3, 9), (4, 8)])
def test_a_resumed_run_is_bit_exact(launcher: Launcher, tmp_path: Path, world_size: int, batch_size: int) -> None:
    """From a drain in the first epoch (before DDP has rebuilt its buckets), from mid-epoch, and from epochs' ends."""
    changes: dict[str, Any] = {"batch_size": batch_size, "checkpoint_every_s": 0.0}
    whole = train(launcher, tmp_path / "whole", world_size, **changes)
    cut, step = stop_after_first_step(launcher, tmp_path / "cut", world_size, **changes)
    checkpoints = {step: cut}
    for event in events_of(whole, type_="artifact"):
        if event["kind"] == "checkpoint":
            checkpoints[event["step"]] = Path(event["path"])
    steps_per_epoch = events_of(whole, type_="plan")[0]["steps_per_epoch"]
    assert any(1 < at < steps_per_epoch for at in checkpoints), "none was cut in mid-epoch"
    for at, path in checkpoints.items():
        rest = train(launcher, tmp_path / f"rest-{at}", world_size, resume=str(path), **changes)
        assert result_of(rest)["weights_sha256"] == result_of(whole)["weights_sha256"], at
        assert train_losses(rest) == pytest.approx(train_losses(whole)[at:], rel=1e-12)
        assert f"continuing after step {at}, exactly" in rest.log(0).read_text()


def test_a_run_goes_on_with_other_ranks_over_the_same_batches(launcher: Launcher, tmp_path: Path) -> None:
    whole = train(launcher, tmp_path / "whole", 1, "tiny")
    checkpoint = whole.artifacts / "step-4.safetensors"
    rest = train(launcher, tmp_path / "rest", 2, "tiny", resume=str(checkpoint))
    assert train_losses(rest) == pytest.approx(train_losses(whole)[4:], rel=1e-4)
    assert "not bit by bit (1 ranks then, 2 now" in rest.log(0).read_text()
