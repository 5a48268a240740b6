"""The two-layer network: the same losses in every way it is written, and what compiling it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dljobs.errors import UsageError
from dljobs.models import two_layer
from dljobs.models.build import build_model
from dljobs.models.compiled import compile_whole
from dljobs.models.data import load_data
from dljobs.models.losses import find_loss

NUM_STEPS = 120


def build(implementation: str) -> nn.Module:
    torch.manual_seed(3)
    return build_model("two-layer", {"implementation": implementation}, load_data("random-pairs", {}, Path()))


def losses(model: nn.Module, num_steps: int = NUM_STEPS, num_rows: int = 64) -> list[float]:
    """The loop that all sections of the tutorial share."""
    x, y = load_data("random-pairs", {}, Path()).test.batch(torch.arange(num_rows))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    found = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = find_loss("sse")(model(x), y)
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.fixture(scope="module")
def by_hand() -> list[float]:
    """The tutorial's first program, in float64: what all others approximate."""
    torch.manual_seed(3)
    w1, w2 = (torch.randn(*size).double().numpy() for size in ((1000, 100), (100, 10)))
    x, y = (each.double().numpy() for each in load_data("random-pairs", {}, Path()).test.batch(torch.arange(64)))
    found = []
    for _ in range(NUM_STEPS):
        h = x.dot(w1)
        h_relu = h.clip(min=0)
        y_pred = h_relu.dot(w2)
        found.append(((y_pred - y) ** 2).sum())
        grad_y_pred = 2.0 * (y_pred - y)
        grad_w2 = h_relu.T.dot(grad_y_pred)
        grad_h = grad_y_pred.dot(w2.T)
        grad_h[h < 0] = 0
        w1, w2 = w1 - 1e-6 * x.T.dot(grad_h), w2 - 1e-6 * grad_w2
    return found


@pytest.mark.parametrize("implementation", ["numpy", "tensor", "autograd", "function", "nn", "module"])
def test_all_forms_of_sgd_give_the_losses_of_the_first_program(implementation: str, by_hand: list[float]) -> None:
    """Float32 against float64: 1e-4 of the loss after 120 steps, in which it falls from 3e7 to some tens."""
    assert losses(build(implementation)) == pytest.approx(by_hand, rel=1e-4)


def test_a_whole_graph_gives_the_same_gradients_also_for_ragged_batches() -> None:
    eager, model = build("module"), build("compiled")
    assert isinstance(model, two_layer.CompiledNet)
    model._run = compile_whole(super(two_layer.CompiledNet, model).forward, "aot_eager")
    for num_rows in (64, 64, 3):
        assert losses(model, 5, num_rows) == pytest.approx(losses(eager, 5, num_rows), rel=1e-5)
    assert list(model.state_dict()) == list(eager.state_dict())


def test_what_no_graph_can_hold_is_an_error() -> None:
    def forward(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="cannot be compiled here: "):
        compile_whole(forward, "aot_eager")(torch.ones(2))


def test_adam_begins_from_smaller_weights_with_biases() -> None:
    model = build("optim")
    assert [tuple(p.shape) for p in model.parameters()] == [(100, 1000), (100,), (10, 100), (10,)]
