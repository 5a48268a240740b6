"""rows: random rows of numbers and a linear function of them, the plainest thing to regress."""

from __future__ import annotations

from pathlib import Path

import torch

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive

SCALE = 0.25  # standard deviation of the values


@dataset(
    "rows",
    summary="1,000 rows of 20 numbers in [0, 1) and a value that is a hidden linear function of them",
    source="drawn here; rows as D2L 6 feeds them to its layers",
    task="regression",
    shape=(20,),
    num_classes=None,
)
def rows(
    root: Path,
    *,
    num_features: int = 20,
    num_values: int = 1,
    num_rows: int = 1000,
    num_test_rows: int = 200,
    seed: int = 0,
) -> Data:
    """x uniform in [0, 1), y = (x - 1/2)·A of mean 0 and standard deviation 0.25, without noise.

    Args:
        num_features: numbers in a row
        num_values: numbers to give for a row
        num_rows: for training
        num_test_rows: for tests
        seed: another one draws another function and other rows
    """
    require_positive(
        "rows", num_features=num_features, num_values=num_values, num_rows=num_rows, num_test_rows=num_test_rows
    )
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_values, generator=generator)
    mixing *= SCALE * 12**0.5 / mixing.norm(dim=0)  # a uniform number has the variance 1/12
    x = torch.rand(num_rows + num_test_rows, num_features, generator=generator)
    y = (x - 0.5) @ mixing
    return Data(
        TensorSplit(x[:num_rows], y[:num_rows]),
        TensorSplit(x[num_rows:], y[num_rows:]),
        sample_shape=(num_features,),
        task="regression",
    )
