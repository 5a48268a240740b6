"""Looking at what was trained: inspect, eval, predict, plot, compare and models, as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import CommandLine
from tests.pictures import check_picture

LENET = {
    "conv1.weight": [6, 1, 5, 5],
    "conv1.bias": [6],
    "conv2.weight": [16, 6, 5, 5],
    "conv2.bias": [16],
    "fc1.weight": [120, 400],
    "fc1.bias": [120],
    "fc2.weight": [84, 120],
    "fc2.bias": [84],
    "fc3.weight": [10, 84],
    "fc3.bias": [10],
}


@pytest.fixture(scope="module")
def lenet(dljobs: CommandLine) -> int:
    """A LeNet that has learned a little."""
    return dljobs.submit("lenet", "--epochs", 4, "--wait")


def test_inspect_lists_the_ten_parameters_in_their_order(dljobs: CommandLine, lenet: int, tmp_path: Path) -> None:
    found = dljobs.json("inspect", lenet)["inspection"]
    assert {each["name"]: each["shape"] for each in found["tensors"]} == LENET
    assert [each["name"] for each in found["tensors"]] == list(LENET)
    assert found["num_values"] == 61_706
    text = dljobs.ok("inspect", lenet)
    for words in ("(6,1,5,5)", "(16,6,5,5)", "(120,400)", "(10,84)", "48,000"):
        assert words in text
    assert dljobs.ok("inspect", lenet, "fc3.bias").splitlines()[-1].endswith("]")
    dljobs.ok("inspect", lenet, "conv1.weight", "-o", tmp_path / "conv1.npy")
    assert (tmp_path / "conv1.npy").stat().st_size == 128 + 150 * 4


def test_eval_is_recorded_and_drawn(dljobs: CommandLine, tmp_path: Path) -> None:
    job_id = dljobs.submit("lenet", "--epochs", 2, "--wait")
    here = dljobs("eval", job_id, "--plot", tmp_path / "confusion.png", "--confusion")
    assert here.returncode == 0, here.stderr
    check_picture(tmp_path / "confusion.png")
    table = here.stdout[here.stdout.index("true \\ predicted") :].splitlines()
    assert len(table) == 11
    queued = dljobs(
        "eval", job_id, "--queue", "--wait", "--confusion", "--plot", tmp_path / "queued.svg", "--checkpoint", "last"
    )
    assert queued.returncode == 0, queued.stderr
    assert queued.stdout[queued.stdout.index("true \\ predicted") :].splitlines() == table
    check_picture(tmp_path / "queued.svg")
    fake = dljobs.json("eval", job_id, "--checkpoint", 1, "--data", "fake", "--data", "digits")["evaluation"]
    records = dljobs.json("show", job_id)["job"]["evaluations"]
    assert [record["name"] for record in records] == ["epoch-2", "epoch-2", "epoch-1"]
    assert [record["by_job_id"] is None for record in records] == [True, False, True]
    assert records[0]["result"]["accuracy"] == records[1]["result"]["accuracy"]
    assert records[2]["id"] == fake["id"]
    assert sum(map(sum, fake["result"]["confusion"])) == 359
    assert records[0]["result"]["accuracy"] == pytest.approx(
        sum(int(row.split()[1 + number].replace("·", "0")) for number, row in enumerate(table[1:])) / 359
    )
    shown = dljobs.ok("show", job_id)
    assert "evaluations\n-----------" in shown
    assert f", job {records[1]['by_job_id']}" in shown


def test_eval_refuses_a_picture_before_it_works(dljobs: CommandLine, lenet: int, tmp_path: Path) -> None:
    before = len(dljobs.json("show", lenet)["job"]["evaluations"])
    for arguments, words in (
        (("--plot", tmp_path / "c.jpeg"), "end it in .png, .svg, .pdf"),
        (("--plot", tmp_path / "none" / "c.png"), "there is no folder"),
        (("--queue", "--confusion"), "add --wait"),
    ):
        done = dljobs("eval", lenet, *arguments)
        assert done.returncode in (1, 2)
        assert words in done.stderr
    assert len(dljobs.json("show", lenet)["job"]["evaluations"]) == before
    assert json.loads(dljobs("eval", lenet, "--json").stdout)["evaluation"]["job_id"] == lenet


def test_predict_on_test_samples_and_on_images(dljobs: CommandLine, lenet: int, tmp_path: Path) -> None:
    found = dljobs.json("predict", lenet, "--test", "0-15", "--top", 3)["predictions"]["predictions"]
    assert [each["input"] for each in found] == [f"test {number}" for number in range(16)]
    assert all(len(each["top"]) == 3 for each in found)
    done = dljobs("predict", lenet, "--test", "all", "--grid", tmp_path / "grid.png")
    assert done.returncode == 0, done.stderr
    accuracy = dljobs.json("eval", lenet)["evaluation"]["result"]["accuracy"]
    assert f": {round(accuracy * 359)} of 359 right" in done.stderr
    assert "with the first 64 samples" in done.stderr
    check_picture(tmp_path / "grid.png")
    image = tmp_path / "3" / "digit.png"
    image.parent.mkdir()
    Image.new("RGB", (40, 50), (20, 20, 20)).save(image)
    (one,) = dljobs.json("predict", lenet, tmp_path / "3", "--checkpoint", "last")["predictions"]["predictions"]
    assert (one["input"], one["true"]) == (str(image), "3")
    for arguments, status, words in (
        ((0.5,), 2, "a row has 1 numbers, and samples of shape 1×32×32 need 1024"),
        (("--test", "300-400"), 2, "there is no test sample 359: they go from 0 to 358"),
        ((tmp_path / "none.png",), 102, "there is no file"),
    ):
        refused = dljobs("predict", lenet, *arguments)
        assert refused.returncode == status
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr


def test_compare_tells_what_was_changed_and_what_came_of_it(dljobs: CommandLine, lenet: int) -> None:
    same = dljobs.submit("lenet", "--epochs", 4, "--wait")
    other = dljobs.submit("lenet", "--epochs", 1, "--seed", 5, "--wait")
    assert "all 10 tensors are equal" in dljobs.ok("compare", lenet, same)
    found = dljobs.json("compare", lenet, other)["comparison"]
    assert {each["name"] for each in found["spec"]} == {"training.epochs", "training.seed"}
    assert {each["verdict"] for each in found["weights"]["tensors"]} == {"differs"}
    accuracy = next(each for each in found["metrics"] if each["name"] == "accuracy")
    assert accuracy["a"] > accuracy["b"]


def test_plot_over_everything_and_in_the_terminal(dljobs: CommandLine, lenet: int, tmp_path: Path) -> None:
    for axis in ("step", "epoch", "time"):
        dljobs.ok("plot", lenet, "-o", tmp_path / f"{axis}.png", "--x", axis)
        check_picture(tmp_path / f"{axis}.png")
    text = dljobs.ok("plot", lenet, "--term", "--x", "time")
    assert "seconds since the first step" in text
    assert "epoch_loss" not in text
    dljobs.ok("plot", lenet, "--grid", "-o", tmp_path / "grid.svg")
    check_picture(tmp_path / "grid.svg")
    refused = dljobs("plot", lenet, "--fit", "-o", tmp_path / "fit.png")
    assert refused.returncode == 2
    assert "the data are classes" in refused.stderr
    curves = dljobs.json("plot", lenet)["curves"]
    assert all(len(curve["times"]) == len(curve["points"]) for curve in curves)
