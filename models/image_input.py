"""Images on their way into a model and out of it again: files to samples, and samples to pixels that can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dljobs.errors import UsageError

from .build import shape_text
from .data import Data
from .datasets.images import read_image

NUM_LOOKED_AT = 256  # training samples


def read_images(paths: Sequence[Path], data: Data) -> tuple[Tensor, str]:
    """Image files as samples [n, c, h, w] such as the data has, and what was done to them, in words.

    Each is turned upright, made grey or coloured as the model wants, and resized; what is transparent becomes white.
    Then it goes the way of the data's own images.

    Raises:
        UsageError: such samples are no images, or nothing tells which numbers they are made of.
        DataError: a file is no image that can be read.
    """
    shape = data.raw_shape or data.sample_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"an image cannot become a sample of shape {shape_text(shape)}", "give rows of numbers")
    pixels = torch.stack([read_image(path, shape) for path in paths])
    colours = "grey" if shape[0] == 1 else "coloured"
    resized = f"made {colours} and resized to {shape[1]}×{shape[2]}"
    if data.from_raw is not None:
        return data.from_raw(pixels), f"{resized}, then prepared as the data's own images"
    low, high = _range_of(data)
    return pixels.float() / 255 * (high - low) + low, f"{resized}, then scaled from {low} to {high} like the data's own"


def _range_of(data: Data) -> tuple[int, int]:
    """Of the numbers that pictures of one's own data are made of, where these do not say it themselves."""
    x, _ = data.train.batch(torch.arange(min(len(data.train), NUM_LOOKED_AT)))
    low, high = (float(bound) for bound in x.aminmax())
    for known in ((0, 1), (-1, 1), (0, 255)):
        if known[0] <= low and high <= known[1]:
            return known
    raise UsageError(
        f"the samples' numbers go from {low:.3g} to {high:.3g}: that does not tell how an image becomes one",
        hint="let your data say it: Data(…, from_raw=FUNCTION), from pixels uint8 [n, c, h, w] to samples",
    )


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
