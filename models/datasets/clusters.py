"""clusters: points around ten centres, for networks that take a row of numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive


@dataset(
    "clusters",
    summary="2,000 rows of 20 numbers around ten centres; which centre?",
    source="drawn here: Gaussian clusters around random centres",
    task="classification",
    shape=(20,),
    num_classes=10,
)
def clusters(
    root: Path,
    *,
    num_features: int = 20,
    num_classes: int = 10,
    num_rows: int = 2000,
    spread: float = 0.8,
    seed: int = 0,
) -> Data:
    """Centres from the standard normal distribution, points around them; of the rows a fifth is for tests.

    Args:
        num_features: numbers in a row
        num_classes: how many centres
        num_rows: training and test rows together
        spread: standard deviation around a centre; of the centres it is 1
        seed: another one draws other centres and points
    """
    require_positive("clusters", num_features=num_features, num_classes=num_classes, num_rows=num_rows)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, num_features, generator=generator)
    labels = torch.arange(num_rows) % num_classes
    rows = centres[labels] + spread * torch.randn(num_rows, num_features, generator=generator)
    num_train = num_rows - num_rows // 5
    return Data(
        TensorSplit(rows[:num_train], labels[:num_train]),
        TensorSplit(rows[num_train:], labels[num_train:]),
        sample_shape=(num_features,),
        num_classes=num_classes,
    )
