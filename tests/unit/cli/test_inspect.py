"""`dljobs inspect`: the tree of tensors, one of them, and a file of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.service_world import World


@pytest.fixture
def nested(world: World) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shared = torch.ones(2, 3)
    state_dict = {
        "0.block 0.0.weight": torch.randn(4, 3),
        "0.block 0.0.bias": torch.tensor([0.0, float("nan"), 2.0, 0.0]),
        "0.block 1.0.weight": torch.randn(4, 4).bfloat16(),
        "0.block 1.0.bias": torch.arange(4.0),
        "1.weight": shared,
        "2.weight": shared,
        "steps": torch.tensor(12),
    }
    world.worker()
    world.trained_job(state_dict)
    return state_dict


def test_the_tree(dljobs, nested):
    done = dljobs("inspect", "@")
    assert done.code == 0
    assert done.lines[0] == "epoch-1 of job 1, run 1, epoch 1: 7 tensors, 43 numbers"
    assert [line.rstrip() for line in (line[:25] for line in done.lines[3:])] == [
        "0",
        "  0.block 0.0",
        "    0.block 0.0.weight  (",
        "    0.block 0.0.bias    (",
        "  0.block 1.0",
        "    0.block 1.0.weight  (",
        "    0.block 1.0.bias    (",
        "1.weight                (",
        "steps                   (",
        "2.weight                =",
    ]
    bias = next(line.split() for line in done.lines if "0.block 0.0.bias" in line)
    assert bias[2:] == ["(4)", "float32", "4", "0.6667", "0.9428", "0", "2", "50%", "25%"]
    assert done.lines[-1].split() == ["2.weight", "=", "1.weight"]


def test_the_tree_as_json(dljobs, nested):
    found = dljobs("inspect", 1, "--json").json
    assert (found["num_values"], found["values"], found["artifact"]["name"]) == (43, None, "epoch-1")
    tensors = {each["name"]: each for each in found["tensors"]}
    assert list(tensors) == [*(name for name in nested if name != "2.weight"), "2.weight"]
    weight = nested["0.block 0.0.weight"]
    about = tensors["0.block 0.0.weight"]
    assert (about["shape"], about["dtype"], about["count"]) == ([4, 3], "float32", 12)
    assert about["mean"] == pytest.approx(float(weight.mean()))
    assert about["std"] == pytest.approx(float(weight.std(correction=0)))
    assert (about["min"], about["max"]) == (float(weight.min()), float(weight.max()))
    assert tensors["2.weight"]["alias_of"] == "1.weight"
    assert tensors["steps"]["shape"] == []


def test_one_tensor(dljobs, nested, tmp_path: Path):
    done = dljobs("inspect", "@", "0.block 1.0.bias")
    assert done.lines[-1] == "[0. 1. 2. 3.]"
    assert "shape  (4)" in done.lines
    found = dljobs("inspect", "@", "0.block 0.0.bias", "--json").json
    assert found["values"] == [0.0, None, 2.0, 0.0]
    assert dljobs("inspect", "@", "2.weight", "--json").json["tensors"][0]["alias_of"] == "1.weight"
    done = dljobs("inspect", "@", "0.block 1.0.weight", "-o", tmp_path / "w.npy")
    assert (done.out, f"wrote {tmp_path / 'w.npy'}" in done.err) == ("", True)
    with (tmp_path / "w.npy").open("rb") as file:
        saved = np.lib.format.read_array(file, allow_pickle=False)
    assert np.array_equal(saved, nested["0.block 1.0.weight"].float().numpy())


def test_a_long_tensor_is_shortened(dljobs, world):
    world.worker()
    world.trained_job({"w": torch.arange(5000.0).reshape(50, 100)})
    done = dljobs("inspect", "@", "w")
    assert "..." in done.out
    assert len(done.lines) < 20
    assert len(dljobs("inspect", "@", "w", "--json").json["values"][49]) == 100


def test_what_cannot_be(dljobs, nested, tmp_path: Path):
    for arguments, code, words in (
        ((1, "0.block 1.bias"), 2, "did you mean '0.block 1.0.bias'?"),
        ((1, "--checkpoint", "7"), 102, "there are those of 1"),
        ((1, "--checkpoint", "good"), 2, "'good' names no checkpoint"),
        ((1, "-o", tmp_path / "x.npy"), 2, "-o saves one tensor"),
        ((1, "steps", "-o", tmp_path / "x.bin"), 2, "x.npy"),
        ((1, "steps", "-o", tmp_path / "none" / "x.npy"), 1, "No such file"),
    ):
        done = dljobs("inspect", *arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert words in done.err
    assert not list(tmp_path.glob("*.npy"))
