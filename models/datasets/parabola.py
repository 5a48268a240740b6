"""parabola-points: ten points of a parabola, to fit a curve through them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive
from dljobs.models.endless import RepeatedSplit


@dataset(
    "parabola-points",
    summary="ten points of y = x² - 0.5x + 1.5625 on [0, 1], all of them in each batch",
    source="the two-neuron network fitted to a parabola, as introductions to backpropagation have it",
    task="regression",
    shape=(1,),
    num_classes=None,
)
def parabola_points(root: Path, *, points: int = 10, passes: int = 1000) -> Data:
    """x evenly from 0 to 1 as [n, 1], y likewise; the test is on the same points, since only the fit is asked for.

    Args:
        points: how many
        passes: how often an epoch goes through all of them
    """
    require_positive("parabola-points", points=points, passes=passes)
    x = torch.linspace(0, 1, points)[:, None]
    y = _parabola(x)
    return Data(
        RepeatedSplit(x, y, passes),
        TensorSplit(x, y),
        sample_shape=(1,),
        task="regression",
        truth=_parabola,
        endless=True,
    )


def _parabola(x: Tensor) -> Tensor:
    return x.square() - 0.5 * x + 1.5625
