"""From `dljobs submit lenet --gpus 4` to a reloaded model, as the README tells it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e.conftest import CommandLine

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def trained(dljobs: CommandLine) -> int:
    """The README's job, trained: its id."""
    done = dljobs("submit", "lenet", "--gpus", "4", "--name", "tour", "--follow")
    assert done.returncode == 0, done.stderr
    assert "rank 3 of 4" in done.stdout
    assert "submitted: lenet on digits, ddp on 4 devices" in done.stderr
    return int(re.search(r"job (\d+) submitted", done.stderr)[1])  # type: ignore[index]


def test_it_reaches_97_percent(dljobs: CommandLine, trained: int) -> None:
    job = dljobs.json("show", trained)["job"]
    assert job["state"] == "succeeded"
    assert job["result"]["accuracy"] >= 0.97
    assert job["result"]["num_samples"] == 359
    (run,) = job["runs"]
    assert len(run["devices"]) == 4


def test_eval_here_and_on_a_worker_agree_with_the_run(dljobs: CommandLine, trained: int) -> None:
    last = dljobs.json("eval", trained, "--checkpoint", "last")["evaluation"]["result"]
    job = dljobs.json("show", trained)["job"]
    assert last["accuracy"] == pytest.approx(job["result"]["accuracy"], abs=1e-9)
    assert last["loss"] == pytest.approx(job["result"]["loss"], rel=1e-4)
    assert len(last["per_class"]) == 10
    queued = dljobs("eval", trained, "--checkpoint", "last", "--queue", "--wait", "--json")
    assert queued.returncode == 0, queued.stderr
    assert json.loads(queued.stdout)["jobs"][0]["result"]["accuracy"] == pytest.approx(last["accuracy"], abs=1e-9)


def test_the_readme_reloads_the_export_with_the_accuracy_of_eval(
    dljobs: CommandLine, service: Cluster, trained: int, tmp_path: Path
) -> None:
    dljobs.ok("export", trained, "-o", tmp_path / "lenet.safetensors")
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]  # type: ignore[index]
    assert "strict=True" in code
    statements = [line for line in code.splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert len(statements) <= 10
    script = tmp_path / "reload.py"
    script.write_text(code.replace('"~/.dljobs/data"', repr(str(service.settings.data_dir))))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    evaluation = dljobs.json("eval", trained)["evaluation"]["result"]
    assert done.stdout.strip() == f"{evaluation['accuracy']:.4f}"


def test_weights_carry_no_prefix_whatever_the_strategy(dljobs: CommandLine, trained: int, tmp_path: Path) -> None:
    from safetensors import safe_open

    names = {}
    for strategy, gpus in (("single", 1), ("dp", 2), ("ddp", 2)):
        job_id = dljobs.submit("lenet", "--gpus", gpus, "--strategy", strategy, "--set", "max_steps=2", "--wait")
        dljobs.ok("export", job_id, "-o", tmp_path / f"{strategy}.safetensors")
        with safe_open(tmp_path / f"{strategy}.safetensors", "pt") as file:
            names[strategy] = sorted(file.keys())
    assert names["single"] == names["dp"] == names["ddp"]
    assert len(names["single"]) == 10
    assert not any(name.startswith("module.") for name in names["ddp"])


def test_every_command_that_reads_tells_of_it(dljobs: CommandLine, trained: int, tmp_path: Path) -> None:
    assert "succeeded" in dljobs.ok("status")
    assert "ddp on 4 devices" in dljobs.ok("show", trained)
    assert "it succeeded" in dljobs.ok("why", trained)
    assert "rank 0 of 4" in dljobs.ok("logs", trained, "--rank", 0)
    assert "rank 0 of 4" not in dljobs.ok("logs", trained, "--rank", 1)
    assert "all ranks started" in dljobs.ok("events", trained)
    assert "epoch-15" in dljobs.ok("artifacts", trained)
    assert "w1" in dljobs.ok("workers")
    assert "lenet" in dljobs.ok("models")
    dljobs.ok("wait", trained)
    dljobs.ok("doctor")
    dljobs.ok("plot", trained, "-o", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_strategies_follow_one_loss_curve(dljobs: CommandLine) -> None:
    """The same samples in each global batch, so only the order of float32 sums differs.

    One step's relative rounding difference is about 1e-7. It grows while the weights move apart: 1e-4 of the loss over
    the first ten steps is a hundred times what was seen, and far below what a wrong batch or a wrong scale would do.
    """
    curves = {}
    for strategy, gpus in (("single", 1), ("dp", 2), ("ddp", 2), ("ddp", 4)):
        arguments = ("--gpus", gpus, "--strategy", strategy, "--epochs", 1, "--seed", 3)
        job_id = dljobs.submit("lenet", *arguments, "--wait")
        found = dljobs.json("plot", job_id)["curves"]
        (loss,) = [curve for curve in found if (curve["split"], curve["name"]) == ("train", "loss")]
        curves[strategy, gpus] = [value for _step, _epoch, value in loss["points"]]
    single = curves["single", 1]
    assert len(single) == 23
    for curve in curves.values():
        assert curve[:10] == pytest.approx(single[:10], rel=1e-4)
        assert curve == pytest.approx(single, rel=2e-2), "later steps still follow"
