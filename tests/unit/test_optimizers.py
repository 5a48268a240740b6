from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

from dljobs.service.spec import OptimizerName, Training
from dljobs.workers.optimizers import build_optimizer, learning_rate, set_learning_rate


@pytest.mark.parametrize("name", typing.get_args(OptimizerName))
def test_every_optimizer_trains_and_takes_its_settings(name: OptimizerName) -> None:
    model = nn.Linear(3, 2)
    frozen = nn.Linear(3, 2).requires_grad_(False)
    training = Training(optimizer=name, lr=0.05, momentum=0.9, weight_decay=0.01)
    optimizer = build_optimizer(training, nn.ModuleList([model, frozen]))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.05, 0.01, 2)
    if name in {"sgd", "rmsprop"}:
        assert group["momentum"] == 0.9
    before = model.weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not before.equal(model.weight)
    set_learning_rate(optimizer, 0.5)
    assert group["lr"] == 0.5


def test_schedules() -> None:
    constant, cosine, step = (Training(lr=1.0, schedule=name) for name in ("constant", "cosine", "step"))
    assert [learning_rate(constant, s, 9) for s in (1, 9)] == [1.0, 1.0]
    assert [learning_rate(cosine, s, 10) for s in (1, 6, 11)] == pytest.approx([1.0, 0.5, 0.0])
    assert [learning_rate(step, s, 9) for s in range(1, 10)] == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 3)


def test_warmup_rises_linearly_and_meets_the_schedule() -> None:
    training = Training(lr=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(training, step, 14) for step in range(1, 16)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)


def test_a_schedule_shorter_than_its_warmup_does_not_break() -> None:
    training = Training(lr=1.0, schedule="cosine", warmup_steps=100)
    assert learning_rate(training, 10, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_the_fused_kernel_computes_what_the_plain_one_does(name: OptimizerName) -> None:
    """Up to the rounding of float32: it may multiply and add in one operation."""
    training = Training(optimizer=name, lr=0.05, momentum=0.9, weight_decay=0.01)
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
        optimizer = build_optimizer(training, model)
        assert optimizer.param_groups[0]["fused"] is True
        optimizer.param_groups[0]["fused"] = fused
        for _ in range(20):
            optimizer.zero_grad()
            torch.autograd.backward(model(torch.randn(4, 7)).square().sum())
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        optimizer = build_optimizer(Training(optimizer="sgd", lr=0.05, momentum=0.9), layers)
        optimizer.param_groups[0]["fused"] = fused
        if not fused:
            optimizer.state.clear()  # the plain one makes its own
        for step in range(6):
            optimizer.zero_grad()
            x = layers[0](torch.randn(4, 3))
            torch.autograd.backward((layers[1](x) if step % 3 == 2 else x).square().sum())
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in layers.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_a_first_gradient_may_come_late_after_the_state_of_another_optimizer_was_dropped() -> None:
    layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    optimizer = build_optimizer(Training(optimizer="sgd", lr=0.05, momentum=0.9), layers)
    optimizer.load_state_dict({"state": {}, "param_groups": optimizer.state_dict()["param_groups"]})
    for outputs in (layers[0](torch.ones(3)), layers[1](layers[0](torch.ones(3)))):
        optimizer.zero_grad()
        torch.autograd.backward(outputs.sum())
        optimizer.step()
    assert all(optimizer.state[each]["momentum_buffer"].any() for each in layers[1].parameters())


def test_sparse_gradients_keep_the_plain_kernel() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = build_optimizer(Training(lr=1.0), model)
    before = model.weight.detach().clone()
    torch.autograd.backward(model(torch.tensor([2])).sum())
    optimizer.step()
    assert (before - model.weight).detach().round().tolist() == [[float(row == 2)] * 3 for row in range(5)]
