"""Losses: the same numbers as torch's own, one per sample, and never a silent broadcast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dljobs.errors import UnknownName, UsageError
from dljobs.models.catalog import LOSS_NAMES
from dljobs.models.losses import LOSSES, find_loss

REFERENCE = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "mse": nn.MSELoss(),
    "l1": nn.L1Loss(),
    "sse": nn.MSELoss(reduction="sum"),
    "sae": nn.L1Loss(reduction="sum"),
}


def batch(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    output = torch.randn(6, 4, generator=generator)
    if name == "cross_entropy":
        return output, torch.randint(0, 4, (6,), generator=generator)
    return output, torch.randn(6, 4, generator=generator)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_each_loss_equals_torchs_own(name: str) -> None:
    output, target = batch(name)
    loss = find_loss(name)
    assert loss.per_sample(output, target).shape == (6,)
    torch.testing.assert_close(loss(output, target), REFERENCE[name](output, target))


@pytest.mark.parametrize("name", ["mse", "l1", "sse", "sae"])
def test_values_without_a_second_dimension_are_one_per_sample(name: str) -> None:
    output, target = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(find_loss(name)(output, target), REFERENCE[name](output, target))
    assert find_loss(name).per_sample(output[:0], target[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["mse", "l1", "sse", "sae"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"output has shape \(3, 1\) and the data's target \(3,\)"):
        find_loss(name)(torch.zeros(3, 1), torch.zeros(3))


def test_clients_know_the_same_names() -> None:
    assert sorted(LOSSES) == sorted(LOSS_NAMES) == sorted(REFERENCE)


def test_an_unknown_loss_says_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown loss 'cross_entopy': did you mean 'cross_entropy'"):
        find_loss("cross_entopy")
