"""A sweep as a person makes one: submitted, waited for, compared, and the best of it taken away."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from tests.e2e.conftest import CommandLine
from tests.pictures import check_picture


def test_a_sweep_from_submission_to_the_best_weights(dljobs: CommandLine, tmp_path: Path) -> None:
    sweep = ("--sweep", "lr=0.05,0.000001", "--sweep", "seed=0-1", "--max-parallel", 2)
    name = dljobs.ok("submit", "lenet", "--epochs", 1, "--batch-size", 256, *sweep, "--parsable").strip()
    done = dljobs("wait", name)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" succeeded: accuracy ") == 4
    found = dljobs.json("sweep", name)["sweep"]
    assert (found["state"], found["num_ended"], found["max_parallel"]) == ("succeeded", 4, 2)
    trials = found["trials"]
    assert [trial["best"] for trial in trials] == [True, False, False, False]
    assert trials[0]["settings"]["lr"] == 0.05  # with the other rate nothing is learned
    assert sorted((trial["settings"]["lr"], trial["settings"]["seed"]) for trial in trials) == [
        (0.000001, 0), (0.000001, 1), (0.05, 0), (0.05, 1),
    ]  # fmt: skip
    assert dljobs.ok("sweep", name, "--best", "--plot", tmp_path / "sweep.png") == f"{trials[0]['job_id']}\n"
    check_picture(tmp_path / "sweep.png")
    dljobs.ok("export", f"{name}.best", "-o", tmp_path / "best.safetensors")
    assert load_file(tmp_path / "best.safetensors")["fc3.bias"].shape == (10,)
    [line] = [each for each in dljobs.ok("status").splitlines() if each.startswith(f"{name} ") or f" {name} " in each]
    assert "4/4 jobs" in line
