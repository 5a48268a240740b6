from __future__ import annotations

import dataclasses
import random
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dljobs.errors import CorruptArtifact, UsageError
from dljobs.service.spec import JobSpec, OptimizerName, Training
from dljobs.workers.checkpoint import Checkpoint, copy_optimizer
from dljobs.workers.optimizers import build_optimizer
from dljobs.workers.plan import Plan
from dljobs.workers.progress import Progress
from dljobs.workers.random_state import capture, restore, seed_all
from dljobs.workers.weights import copy_to_host, digest, write_tensors
from tests.small_jobs import small_request

PLAN = Plan(steps=12, epochs=3, num_samples=50, batch_size=16, seed=5)


def of(
    model: nn.Module, optimizer: torch.optim.Optimizer, spec: JobSpec, progress: Progress | None = None
) -> Checkpoint:
    copies = copy_to_host(model.state_dict()), copy_optimizer(optimizer)
    return Checkpoint.of(*copies, progress or Progress(), [capture()], spec, PLAN)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def new_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


@pytest.mark.parametrize("name", typing.get_args(OptimizerName))
def test_a_restored_run_goes_on_bit_by_bit(tmp_path: Path, name: OptimizerName) -> None:
    spec = small_request(tmp_path, optimizer=name, momentum=0.9, weight_decay=0.01).spec
    training = spec.training
    seed_all(1)
    model = new_model()
    optimizer = build_optimizer(training, model)
    train(model, optimizer, range(3))
    progress = Progress(step=3, epoch=2, step_in_epoch=1, loss_sum=0.1, num_samples=24, best_epoch=1, best_value=0.3)
    saved = of(model, optimizer, spec, progress)
    train(model, optimizer, range(3, 6))  # must not change what was captured
    saved.write(tmp_path / "step-3.safetensors")

    seed_all(2)
    other = new_model()
    other_optimizer = build_optimizer(training, other)
    read = Checkpoint.read(tmp_path / "step-3.safetensors")
    read.restore(other, other_optimizer)
    restore(read.random_states[0])
    train(other, other_optimizer, range(3, 6))
    assert digest(other.state_dict()) == digest(model.state_dict())
    assert read.progress == progress
    assert read.differences(spec, world_size=1) == []
    quieter = dataclasses.replace(spec, training=dataclasses.replace(training, log_every=7, checkpoint_every_steps=2))
    assert read.differences(quieter, world_size=1) == [], "what a job reports changes nothing"
    changed = dataclasses.replace(spec, training=Training(lr=0.5))
    assert read.differences(changed, world_size=2) == ["1 ranks then, 2 now", "another spec"]


def test_every_generator_is_restored() -> None:
    seed_all(3, 1)
    random.gauss(0, 1)  # leaves a second value behind, which belongs to the state, too
    np.random.standard_normal()
    state = capture()

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(),
            np.random.rand(),
            torch.rand(()).item(),
        ]

    drawn = draw()
    assert draw() != drawn
    restore(state)
    assert draw() == drawn


def test_seeding_depends_on_every_part() -> None:
    drawn = set()
    for parts in [(1,), (2,), (1, 1), (1, 2), (2, 1)]:
        seed_all(*parts)
        drawn.add((random.random(), float(np.random.rand()), torch.rand(()).item()))
    assert len(drawn) == 5


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model = new_model()
    optimizer = build_optimizer(Training(), model)
    saved = of(model, optimizer, small_request(tmp_path).spec)
    for other in (nn.Linear(6, 2), nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Dropout(), nn.Linear(7, 2))):
        with pytest.raises(UsageError, match="does not fit"):
            saved.restore(other, build_optimizer(Training(), other))


def test_what_is_no_checkpoint_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"junk")
    with pytest.raises(CorruptArtifact):
        Checkpoint.read(path)
    with pytest.raises(CorruptArtifact):
        Checkpoint.read(tmp_path / "missing")
    for metadata, error in (({}, CorruptArtifact), ({"checkpoint": "{"}, CorruptArtifact)):
        write_tensors(path, {"a": torch.ones(1)}, metadata)
        with pytest.raises(error):
            Checkpoint.read(path)
    write_tensors(path, {"a": torch.ones(1)}, {"checkpoint": '{"format": 99}'})
    with pytest.raises(CorruptArtifact, match="another release"):
        Checkpoint.read(path)


def test_a_cut_checkpoint_is_corrupt(tmp_path: Path) -> None:
    model = new_model()
    optimizer = build_optimizer(Training(), model)
    path = tmp_path / "file"
    of(model, optimizer, small_request(tmp_path).spec).write(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact):
        Checkpoint.read(path)
