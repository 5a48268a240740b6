"""export, plot and eval, as far as they need no torch."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dljobs.service import child as child_process
from dljobs.service.tables import blobs
from tests.service_world import World


@pytest.fixture
def trained(world: World) -> World:
    """Job 1 has trained for three epochs, of which the second was the best."""
    world.worker()
    world.job()
    key = world.start()
    for epoch, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        world.store(key, epoch, content=f"weights {epoch}".encode(), accuracy=accuracy)
        world.write_points(key, "train", "loss", {step: 1 / step for step in range(epoch * 10 - 9, epoch * 10)})
        world.write_points(key, "test", "accuracy", {epoch * 10: accuracy})
    world.write_points(key, "test", "loss", {10: 0.5, 20: math.nan})
    world.succeed(key, accuracy=0.7)
    return world


@pytest.mark.parametrize(("which", "epoch"), [(None, 2), ("best", 2), ("last", 3), ("1", 1)])
def test_export_writes_the_bytes_that_were_stored(dljobs, trained, tmp_path, which, epoch):
    target = tmp_path / "out.safetensors"
    done = dljobs("export", 1, "-o", target, *(["--checkpoint", which] if which else []))
    assert (done.code, done.out) == (0, "")
    assert f"wrote {target} (9 B): epoch-{epoch}, run 1, epoch {epoch} of job 1" in done.err
    assert target.read_bytes() == f"weights {epoch}".encode()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [target.name]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--checkpoint", "9"], 102, ["job 1: there are no weights of epoch 9", "hint: there are those of 1, 2, 3"]),
        (["--checkpoint", "bset"], 2, ["'bset' names no checkpoint"]),
        ([], 2, ["Missing option '-o'"]),
        (["-o", "."], 2, ["is a folder"]),
        (["-o", "/nowhere/x"], 1, ["cannot write /nowhere/x: No such file or directory"]),
    ],
)
def test_export_says_what_is_wrong(dljobs, trained, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    target = [] if not arguments or "-o" in arguments else ["-o", "x"]
    done = dljobs("export", 1, *arguments, *target)
    assert done.code == code
    assert all(word in done.err for word in words)
    assert not Path("x").exists()


def test_a_corrupt_blob_is_never_written_out(dljobs, trained, tmp_path):
    with trained.database.write() as connection:
        connection.execute(blobs.update().values(data=b"weights X"))
    done = dljobs("export", 1, "-o", tmp_path / "x")
    assert done.code == 1
    assert "artifact 2 (epoch-2) is corrupt: blob 0 does not match its digest" in done.err
    assert not (tmp_path / "x").exists()


def test_without_weights(dljobs, world, tmp_path):
    world.job()
    for command in (["export", 1, "-o", tmp_path / "x"], ["eval", 1], ["eval", 1, "--queue"]):
        done = dljobs(*command)
        assert done.code == 102
        assert "job 1: there are no weights yet" in done.err


def test_plot_draws_a_picture(dljobs, trained, tmp_path):
    pytest.importorskip("matplotlib")
    done = dljobs("plot", 1, "-o", tmp_path / "loss.png")
    assert (done.code, done.out, done.err) == (0, "", f"drew {tmp_path / 'loss.png'}\n")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert dljobs("plot", 1, 1, "-o", tmp_path / "loss.svg").code == 0
    assert "job 1 lenet, train" in (tmp_path / "loss.svg").read_text()


def test_plot_prints_the_points(dljobs, trained):
    curves = {(curve["split"], curve["name"]): curve["points"] for curve in dljobs("plot", 1, "--json").json}
    assert curves["test", "accuracy"] == [[10, 1, 0.5], [20, 2, 0.9], [30, 3, 0.7]]
    assert curves["test", "loss"] == [[10, 1, 0.5], [20, 2, None]]


def test_plot_says_what_is_wrong(dljobs, trained, tmp_path, monkeypatch):
    assert "Missing option '-o'" in dljobs("plot", 1).err
    assert "cannot draw a .gif" in dljobs("plot", 1, "-o", tmp_path / "x.gif").err
    trained.job()
    assert dljobs("plot", 2, "-o", tmp_path / "x.png").code == 102
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'dljobs[plot]'" in dljobs("plot", 1, "-o", tmp_path / "x.png").err


def test_plot_in_the_terminal(dljobs, trained):
    done = dljobs("plot", 1, "--term", "--x", "epoch")
    assert done.code == 0
    assert [line for line in done.lines if line in ("loss", "accuracy")] == ["loss", "accuracy"]
    assert max(map(len, done.lines)) <= 100
    assert "\x1b" not in done.out


def test_a_fit_and_a_grid_are_of_one_job(dljobs, trained, monkeypatch, tmp_path):
    line = {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, None]}
    child = child_that_says(monkeypatch, {"points": line, "fit": line, "truth": line})
    done = dljobs("plot", 1, "--fit", "--term", "-o", tmp_path / "fit.png")
    assert (done.code, child.request["task"], child.weights) == (0, "fit", b"weights 2")
    assert "job 1, epoch-2, on digits" in done.lines
    assert any("learned" in line for line in done.lines)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert dljobs("plot", 1, "--fit", "--checkpoint", "last", "--json").json["fit"] == line
    child_that_says(monkeypatch, {"parity": {"true": [1.0, 2.0], "predicted": [1.5, None]}})
    assert dljobs("plot", 1, "--fit", "--json").json["points"] is None
    assert any("as it should be" in line for line in dljobs("plot", 1, "--fit", "--term").lines)
    for arguments, words in (
        ((1, 1, "--fit", "--term"), "draw one job, not 2"),
        ((1, "--fit", "--grid", "--term"), "are two pictures"),
        ((1, "--grid", "--term"), "give a file: -o grid.png"),
        ((1, "--term", "--json"), "both write to stdout"),
    ):
        refused = dljobs("plot", *arguments)
        assert (refused.code, words in refused.err) == (2, True)


class Child:
    """Stands in for the process that loads torch: notes the request, gives a prepared answer."""

    def __init__(self, answer: dict[str, Any] | str, status: int = 1) -> None:
        self.answer = answer
        self.status = status  # of an error
        self.request: dict[str, Any] = {}
        self.environment: dict[str, str] = {}

    def __call__(self, command: list[str], *, env: dict[str, str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-P", "-m", "dljobs.models.child"]
        self.request = json.loads(Path(command[4]).read_text())
        self.environment = env
        self.weights = Path(self.request["state_dict"]).read_bytes()
        text = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return subprocess.CompletedProcess(command, self.status if "error" in text else 0, text)


def child_that_says(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | str, status: int = 1) -> Child:
    child = Child(answer, status)
    monkeypatch.setattr(child_process.subprocess, "run", child)
    monkeypatch.setattr(child_process.importlib.util, "find_spec", lambda _name: object())
    return child


def test_eval_asks_a_child_without_credentials(dljobs, trained, settings, monkeypatch):
    monkeypatch.setenv("DLJOBS_REDIS_URL", "redis://:secret@h/0")
    answer = {"loss": 0.25, "accuracy": 0.875, "num_samples": 8, "per_class": {"0": 1.0, "1": None}, "seconds": 0.5}
    child = child_that_says(monkeypatch, answer)
    done = dljobs("eval", 1)
    assert done.code == 0
    for line in (r"loss         0.25", "accuracy     0.875", "seconds      0.5s", "1             -"):
        assert line in done.lines
    assert "epoch-2 of job 1, run 1, epoch 2, on digits" in done.err
    assert child.weights == b"weights 2"
    assert child.request["data_dir"] == str(settings.data_dir)
    assert (child.request["model"], child.request["loss"], child.request["device"]) == ("lenet", "cross_entropy", "cpu")
    assert "DLJOBS_REDIS_URL" not in child.environment
    assert not Path(child.request["state_dict"]).exists()


def test_eval_on_other_data_takes_that_datas_defaults(dljobs, trained, monkeypatch):
    child = child_that_says(monkeypatch, {"loss": 1.0, "accuracy": 0.1})
    assert dljobs("eval", 1, "--data", "fake", "--json").json["data"] == "fake"
    assert child.request["data"] == "fake"
    assert "num_classes" in child.request["data_options"]
    assert "did you mean 'fake'" in dljobs("eval", 1, "--data", "fakee").err


def test_eval_hands_on_the_childs_error(dljobs, trained, monkeypatch):
    child_that_says(monkeypatch, {"error": {"type": "DataError", "message": "no mnist", "hint": "put it there"}})
    done = dljobs("eval", 1)
    assert done.code == 1
    assert done.err == "dljobs: the evaluation failed: no mnist\nhint: put it there\n"
    wrong = {"error": {"type": "UnknownName", "message": "unknown dataset 'x'", "hint": ""}}
    for arguments in (("eval", 1), ("predict", 1, "0.5")):
        child_that_says(monkeypatch, wrong, status=2)
        done = dljobs(*arguments)
        assert (done.code, done.err) == (2, "dljobs: unknown dataset 'x'\n"), "what a user gave, not a failure of ours"
    child_that_says(monkeypatch, "Segmentation error")
    assert "ended with exit code 1 and no answer" in dljobs("eval", 1).err


def test_eval_of_values_draws_them_over_the_true_ones(dljobs, world, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    world.worker()
    world.job("poly")
    key = world.start()
    world.store(key, 1, content=b"weights")
    world.succeed(key, mse=0.5)
    answer = {"loss": 0.5, "num_samples": 2, "mse": 0.5, "parity": {"true": [1.0, 2.0], "predicted": [1.5, None]}}
    child = child_that_says(monkeypatch, answer)
    done = dljobs("eval", 1, "--plot", tmp_path / "values.svg")
    assert (done.code, "as it should be" in (tmp_path / "values.svg").read_text()) == (0, True)
    assert "parity" not in json.dumps(dljobs("show", 1, "--json").json)
    child.request = {}
    done = dljobs("eval", 1, "--confusion")
    assert (done.code, child.request) == (2, {}), "said before anything is computed"
    assert "job 1 has learned values, and a confusion matrix is of classes" in done.err


def test_eval_without_torch_names_both_ways_out(dljobs, trained, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    done = dljobs("eval", 1)
    assert done.code == 1
    assert "pip install 'dljobs[worker]'" in done.err
    assert "dljobs eval 1 --queue" in done.err


def test_eval_on_a_worker_is_a_job(dljobs, trained, redis):
    done = dljobs("eval", 1, "--queue", "--checkpoint", "last", "--json")
    assert done.code == 0
    (job,) = done.json
    assert (job["kind"], job["num_devices"], job["state"]) == ("evaluate", 1, "queued")
    assert redis.rings == [("dljobs.schedule", "dljobs.schedule")]
    trained.succeed(trained.start(), loss=0.5, accuracy=0.75, per_class={"0": 0.5})
    refused = dljobs("eval", 2)
    assert (refused.code, "job 2 does not train" in refused.err) == (102, True)


def said(**changes: Any) -> dict[str, Any]:
    top = [{"class": "7", "probability": 0.75}, {"class": "1", "probability": None}]
    return {"input": "test 0", "true": "1", "class": "7", "probability": 0.75, "top": top, **changes}


def test_predict_asks_a_child_without_credentials(dljobs, trained, monkeypatch):
    monkeypatch.setenv("DLJOBS_REDIS_URL", "redis://:secret@h/0")
    child = child_that_says(
        monkeypatch, {"predictions": [said(), said(true="7"), said(true=None)], "preparation": "made grey"}
    )
    done = dljobs("predict", 1, "--test", "0-2", "--top", 2)
    assert (done.code, "epoch-2 of job 1, run 1, epoch 2: 1 of 2 right" in done.err) == (0, True)
    assert "each image made grey" in done.err
    assert [line.split() for line in done.lines] == [
        ["input", "predicted", "probability", "true", "then"],
        ["test", "0", "7", "75.0%", "1", "✗", "1", "-"],
        ["test", "0", "7", "75.0%", "7", "1", "-"],
        ["test", "0", "7", "75.0%", "-", "1", "-"],
    ]
    assert (child.request["task"], child.request["test"], child.request["top"]) == ("predict", [0, 1, 2], 2)
    assert "DLJOBS_REDIS_URL" not in child.environment
    found = dljobs("predict", 1, "--test", "0", "--json").json
    assert [each["class"] for each in found["predictions"]] == ["7", "7", "7"]
    assert found["predictions"][0]["values"] is None


def test_predict_of_values(dljobs, trained, monkeypatch, tmp_path):
    values = {"input": "0.5", "true": None, "values": [1.25, None, *[0.0] * 8]}
    child = child_that_says(monkeypatch, {"predictions": [values], "preparation": None})
    done = dljobs("predict", 1, "--", "-0.5", "1,2")
    assert done.lines[-1].split("  ")[-1] == "1.25, -, 0, 0, 0, 0, 0, 0, … (10)"
    assert (child.request["rows"], child.request["names"]) == ([[-0.5], [1.0, 2.0]], ["-0.5", "1,2"])
    assert dljobs("predict", 1, "0.5", "--json").json["predictions"][0]["top"] is None
    assert "there is no folder" in dljobs("predict", 1, "0.5", "--grid", tmp_path / "none" / "x.png").err
    assert (dljobs("predict", 1).code, dljobs("predict", 1, tmp_path / "none.png").code) == (2, 102)


def test_export_says_what_is_stored_once(dljobs, world: World, tmp_path):
    world.worker()
    weight = torch.ones(2, 2)
    world.trained_job({"a.weight": weight, "b.weight": weight})
    said = dljobs("export", "@", "-o", tmp_path / "tied").err
    assert "b.weight is the same tensor as a.weight and stored once: safetensors.torch.load_model" in said


def test_predict_without_torch(dljobs, trained, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install 'dljobs[worker]'" in dljobs("predict", 1, "0.5").err
