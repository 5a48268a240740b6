"""random-pairs: inputs and outputs that have nothing to do with each other, only to be fitted."""

from __future__ import annotations

from pathlib import Path

import torch

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit, require_positive
from dljobs.models.endless import RepeatedSplit


@dataset(
    "random-pairs",
    summary="64 random vectors of 1,000 numbers, each with 10 random ones to give for it; all in each batch",
    source="PyTorch, Learning PyTorch with Examples (Johnson)",
    task="regression",
    shape=(1000,),
    num_classes=None,
)
def random_pairs(
    root: Path, *, pairs: int = 64, inputs: int = 1000, outputs: int = 10, passes: int = 100, seed: int = 0
) -> Data:
    """Standard normal numbers. There is nothing to generalise to: the test asks for the same pairs by heart.

    Args:
        pairs: how many; with as many in a batch each step sees all of them
        inputs: numbers in each input
        outputs: numbers in each output
        passes: how often an epoch goes through all pairs
        seed: another one draws other numbers
    """
    require_positive("random-pairs", pairs=pairs, inputs=inputs, outputs=outputs, passes=passes)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(pairs, inputs, generator=generator), torch.randn(pairs, outputs, generator=generator)
    return Data(RepeatedSplit(x, y, passes), TensorSplit(x, y), sample_shape=(inputs,), task="regression", endless=True)
