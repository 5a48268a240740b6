"""Datasets that are drawn and not stored: they follow from their options, and refuse those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dljobs.errors import UsageError
from dljobs.models import catalog
from dljobs.models.data import load_data

NOWHERE = Path("/nonexistent")
DRAWN = ("clusters", "cubic", "parabola-points", "random-pairs", "rows", "step-edge")


@pytest.mark.parametrize("name", DRAWN)
def test_it_is_what_it_declares_and_always_the_same(name: str) -> None:
    entry = catalog.find_dataset(name)
    first, again = load_data(name, {}, NOWHERE), load_data(name, {}, NOWHERE)
    assert (first.sample_shape, first.num_classes, first.task) == (entry.shape, entry.num_classes, entry.task)
    indices = torch.tensor([0, len(first.train) - 1])
    for one, other in ((first.train, again.train), (first.test, again.test)):
        x, y = one.batch(indices % len(one))
        assert all(torch.equal(a, b) for a, b in zip((x, y), other.batch(indices % len(one)), strict=True))
        assert (x.shape[1:], x.dtype) == (entry.shape, torch.float32)
        assert y.dtype == (torch.float32 if entry.task == "regression" else torch.int64)
    if "seed" in entry.options:
        other_x = load_data(name, {"seed": 1}, NOWHERE).train.batch(indices)[0]
        assert not torch.equal(other_x, first.train.batch(indices)[0])


@pytest.mark.parametrize("name", DRAWN)
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    for option in catalog.find_dataset(name).options.values():
        if option.type == "int" and option.name != "seed":
            with pytest.raises(UsageError, match=f"option '{option.name}' of {name} must be at least 1, not -1"):
                load_data(name, {option.name: -1}, NOWHERE)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("rows", {"num_features": 3, "num_values": 2}, ((2, 3), (2, 2))),
        ("random-pairs", {"inputs": 5, "outputs": 4, "pairs": 3}, ((2, 5), (2, 4))),
        ("clusters", {"num_features": 7, "num_classes": 3}, ((2, 7), (2,))),
        ("parabola-points", {"points": 2, "passes": 1}, ((2, 1), (2, 1))),
    ],
)
def test_sizes(name: str, options: dict[str, Any], shape: tuple[tuple[int, ...], ...]) -> None:
    x, y = load_data(name, options, NOWHERE).train.batch(torch.tensor([0, 1]))
    assert (x.shape, y.shape) == shape


def test_values_of_rows_have_the_variance_that_results_are_compared_with() -> None:
    data = load_data("rows", {"num_rows": 20_000, "num_values": 5}, NOWHERE)
    _, y = data.train.batch(torch.arange(20_000))
    assert y.var(0).tolist() == pytest.approx([0.0625] * 5, rel=0.05)
    assert y.mean(0).abs().max() < 0.01
