"""step-edge: one image with a dark stripe, and where its edges are."""

from __future__ import annotations

from pathlib import Path

import torch

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive
from dljobs.models.endless import RepeatedSplit


@dataset(
    "step-edge",
    summary="a 6×8 image, white with a black stripe, and its vertical edges: 1 from white to black, -1 back",
    source="D2L 7.2.3, Object Edge Detection in Images",
    task="regression",
    shape=(1, 6, 8),
    num_classes=None,
)
def step_edge(root: Path, *, copies: int = 4, passes: int = 10) -> Data:
    """x is [n, 1, 6, 8] with zeros in columns 2 to 5; y is [n, 1, 6, 7], each pixel less its right neighbour.

    Args:
        copies: how often the image is there, so that several ranks have one each
        passes: how often an epoch shows them all
    """
    require_positive("step-edge", copies=copies, passes=passes)
    x = torch.ones(copies, 1, 6, 8)
    x[:, :, :, 2:6] = 0
    y = x[..., :-1] - x[..., 1:]
    return Data(RepeatedSplit(x, y, passes), TensorSplit(x, y), sample_shape=(1, 6, 8), task="regression", endless=True)
