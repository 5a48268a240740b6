"""cubic: a polynomial of the third degree, as a linear function of x, x² and x³."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive
from dljobs.models.endless import FreshSplit

WEIGHTS, BIAS = (0.5, 3.0, 2.4), 0.9


@dataset(
    "cubic",
    summary="y = 0.9 + 0.5x + 3x² + 2.4x³ from the features (x, x², x³), fresh random x in each batch",
    source="polynomial regression, as introductions to PyTorch have it",
    task="regression",
    shape=(3,),
    num_classes=None,
)
def cubic(root: Path, *, epoch_size: int = 32_000, seed: int = 0) -> Data:
    """x from the standard normal distribution, y without noise; the test walks evenly from -2 to 2.

    Args:
        epoch_size: how many samples an epoch takes; none of them comes twice
        seed: another one draws other x
    """
    require_positive("cubic", epoch_size=epoch_size)
    test = torch.linspace(-2, 2, 101)
    return Data(
        FreshSplit(lambda generator, n: _pairs(torch.randn(n, generator=generator)), epoch_size, seed),
        TensorSplit(*_pairs(test)),
        sample_shape=(3,),
        task="regression",
        truth=_values,
        endless=True,
    )


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """[n] to features [n, 3] and values [n, 1]."""
    features = torch.stack([x, x**2, x**3], dim=1)
    return features, _values(features)


def _values(features: Tensor) -> Tensor:
    """[n, 3] to [n, 1]."""
    return features @ torch.tensor(WEIGHTS)[:, None] + BIAS
