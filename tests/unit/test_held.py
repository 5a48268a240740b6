"""Samples that are made once and then held."""

from __future__ import annotations

import torch
from torch import Tensor

from dljobs.models.data import HeldSplit, ItemSplit
from dljobs.models.datasets.images import to_unit_range


class Counted:
    """Four pictures, and how often each was made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        self.made.append(index)
        return torch.full((1, 2, 2), 50 * index, dtype=torch.uint8), torch.tensor(index)


def test_a_held_sample_is_made_once_and_is_what_it_would_be_each_time() -> None:
    images = Counted()
    held, anew = HeldSplit(images, to_unit_range), ItemSplit(Counted(), to_unit_range)
    images.made.clear()
    for indices in ([2, 0], [0, 2, 3], [3, 2, 0], [1, 1]):
        (x, y), (x_anew, y_anew) = held.batch(torch.tensor(indices)), anew.batch(torch.tensor(indices))
        assert x.equal(x_anew)
        assert y.tolist() == y_anew.tolist() == indices
    assert sorted(set(images.made)) == [0, 1, 2, 3]
    assert images.made[:3] == [2, 0, 3]
