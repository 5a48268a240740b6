"""Images on their way into a model and out of it again: files to samples, and samples to pixels that can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dljobs.errors import UsageError

from .build import shape_text
from .datasets.images import read_image, to_unit_range


def read_images(paths: Sequence[Path], shape: tuple[int, ...]) -> Tensor:
    """Image files as samples [n, c, h, w] in [-1, 1], as the zoo's image datasets have them.

    Each is turned upright, made grey or coloured as the model wants, and resized to its height and width; what is
    transparent becomes white.

    Args:
        shape: of one sample.

    Raises:
        UsageError: such samples are no images.
        DataError: a file is no image that can be read.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"an image cannot become a sample of shape {shape_text(shape)}", "give rows of numbers")
    return torch.cat([to_unit_range(read_image(path, shape)[None]) for path in paths])


def to_pixels(samples: Tensor) -> Tensor:
    """Samples [n, c, h, w] as uint8 [n, h, w, 1 or 3], whatever scale they are in.

    Raises:
        UsageError: they are no images.
    """
    if samples.ndim != 4:
        raise UsageError(f"samples of shape {shape_text(samples.shape[1:])} are no images that could be drawn")
    if samples.shape[1] not in (1, 3):
        samples = samples.mean(1, keepdim=True)
    low, high = float(samples.min()), float(samples.max())
    if low >= 0 and high <= 1:
        scaled = samples
    elif low >= -1.01 and high <= 1.01:
        scaled = (samples + 1) / 2
    else:
        lows, highs = samples.amin((1, 2, 3), keepdim=True), samples.amax((1, 2, 3), keepdim=True)
        scaled = (samples - lows) / (highs - lows).clamp(min=1e-12)
    return (scaled.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous()
