"""`dljobs compare`: specs, metrics and weights of two jobs."""

from __future__ import annotations

import pytest
import torch

from dljobs.service import tensors as tensors_module
from tests.service_world import World


def test_two_that_are_the_same(dljobs, world: World):
    world.worker()
    for _ in range(2):
        world.trained_job({"w": torch.tensor([1.0, float("nan")]), "none": torch.zeros(0)})
    found = dljobs("compare", "@1", "@", "--json").json
    assert (found["a"]["job_id"], found["b"]["job_id"], found["spec"]) == (1, 2, [])
    assert found["metrics"] == [{"name": "accuracy", "a": 0.5, "b": 0.5}, {"name": "best.epoch", "a": 1, "b": 1}]
    assert found["weights"]["equal"]
    out = dljobs("compare", 1, 2).out
    assert "there is no difference" in out
    assert "all 2 tensors are equal" in out


def test_all_that_may_differ(dljobs, world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensors_module, "BLOCK", 7)
    world.worker()
    base = torch.arange(20.0)
    shared = torch.ones(2)
    first = {
        "a": base,
        "b": torch.zeros(2, 3),
        "c": torch.ones(1),
        "e": torch.ones(3),
        "n": torch.zeros(2),
        "t": shared,
    }
    second = {
        "a": base.clone().index_add_(0, torch.tensor([13]), torch.tensor([-0.25])),
        "b": torch.zeros(3, 2),
        "d": torch.ones(1),
        "e": torch.ones(3, dtype=torch.bfloat16),
        "n": torch.tensor([0.0, float("nan")]),
        "t": shared,
        "tied": shared,
    }
    world.trained_job(first, sets=["lr=0.1"], name="one")
    world.trained_job(second, sets=["lr=0.2", "num_classes=12"])
    found = dljobs("compare", 1, 2, "--json").json
    assert found["spec"] == [
        {"name": "training.lr", "a": 0.1, "b": 0.2},
        {"name": "model_options.num_classes", "a": None, "b": 12},
    ]
    verdicts = {each["name"]: (each["verdict"], each["max_difference"]) for each in found["weights"]["tensors"]}
    assert verdicts == {
        "a": ("differs", 0.25),
        "b": ("shape", None),
        "c": ("only-a", None),
        "e": ("differs", 0.0),
        "n": ("differs", None),
        "t": ("equal", 0.0),
        "d": ("only-b", None),
        "tied": ("only-b", None),
    }
    lines = dljobs("compare", 1, 2).lines
    assert lines[0] == "job 1 one: succeeded, epoch-1 of run 1"
    assert lines.index("spec") < lines.index("metrics") < lines.index("weights")
    assert "1 of 8 tensors are equal" in lines
    rows = {line.split()[0]: line.split(maxsplit=2)[2] for line in lines[lines.index("weights") + 5 :]}
    assert rows["a"] == "0.25"
    assert rows["b"].split("  ")[-1] == "other shape: (3,2)"
    assert rows["e"].split("  ")[-1] == "float32 and bfloat16"
    assert rows["n"] == "not finite"
    assert rows["tied"].split("  ")[-1] == "only in job 2"


def test_jobs_without_weights_or_result(dljobs, world: World):
    world.worker()
    world.trained_job({"w": torch.ones(1)})
    world.job(name="waits")
    world.write_points(world.start(), "test", "accuracy", {10: 0.25, 20: 0.75})
    found = dljobs("compare", 1, 2, "--json").json
    assert (found["weights"], found["b"]["artifact"]) == (None, None)
    assert {"name": "accuracy", "a": 0.5, "b": 0.75} in found["metrics"]
    assert "nothing to compare: job 2 has no weights" in dljobs("compare", 1, 2).out
    assert dljobs("compare", 1, 9).code == 102
    assert dljobs("compare", 1).code == 2
