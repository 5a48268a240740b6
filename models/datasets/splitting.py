"""Which samples are for training and which for tests, where a dataset does not say it itself.

It owns that choice: the same for the same seed, on every machine. The zoo's data, images and rows are split alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dljobs.errors import UsageError


def stratified(labels: Tensor, num_classes: int, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the training and the test samples, the same share of each class.

    Args:
        labels: int64 [n], from 0 to num_classes - 1.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(num_classes):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        num_test = round(len(members) * test_share)
        test.append(members[:num_test])
        train.append(members[num_test:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def check_share(name: str, share: float) -> None:
    """Refuse a share of test samples that leaves nothing on one side.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"option 'split' of {name} is the share of samples for tests, between 0 and 1, not {share:g}")
