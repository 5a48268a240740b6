"""From stored pixels to what a network takes: uint8 in memory, float32 in [-1, 1] in a batch.

It owns that scaling, the same for every image dataset of the zoo.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 [n, c, h, w] from 0 to 255, as float32 from -1 to 1 (mean 0.5 and deviation 0.5 of the tutorial)."""
    return pixels.float().div_(127.5).sub_(1.0)


def padded_to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 [n, 1, 28, 28] as float32 [n, 1, 32, 32], with a border in the colour of the background."""
    return to_unit_range(functional.pad(pixels, (2, 2, 2, 2)))
