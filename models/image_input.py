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
CLEAR = 0.5  # a border's mean on the scale from -1, dark, to 1
MOST = 0.9  # so many of the data's images must have the same kind of border, if that is to tell anything


def read_images(paths: Sequence[Path], data: Data, *, invert: bool = False) -> tuple[Tensor, str]:
    """Image files as samples [n, c, h, w] such as the data has, and what was done to them, in words.

    Each is turned upright, made grey or coloured as the model wants, and resized; what is transparent becomes white.
    With `invert` light becomes dark. Then it goes the way of the data's own images. Grey ones whose border is light
    where that of the data is dark, or the other way round, are told of.

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
    if invert:
        pixels, resized = 255 - pixels, f"{resized}, light and dark exchanged"
    if data.from_raw is not None:
        x, how = data.from_raw(pixels), "prepared as the data's own images"
    else:
        low, high = _range_of(data)
        x, how = pixels.float() / 255 * (high - low) + low, f"scaled from {low} to {high} like the data's own"
    if shape[0] == 1:
        _tell_inverted(paths, x, data, invert=invert)
    return x, f"{resized}, then {how}"


def _tell_inverted(paths: Sequence[Path], x: Tensor, data: Data, *, invert: bool) -> None:
    """Say which images have a border as light as the data's is dark, or the other way round."""
    known, _ = data.train.batch(torch.arange(min(len(data.train), NUM_LOOKED_AT)))
    low, high = (float(bound) for bound in known.aminmax())
    # From -1, as dark as can be, to 1.
    own, given = ((_borders(images) - low) / max(high - low, 1e-12) * 2 - 1 for images in (known, x))
    if (own * own.mean().sign() > CLEAR).double().mean() < MOST:
        return
    is_wrong = given * own.mean().sign() < -CLEAR
    wrong = [path for path, wrong in zip(paths, is_wrong.tolist(), strict=True) if wrong]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        light, dark = ("light", "dark") if own.mean() < 0 else ("dark", "light")
        cure = "leave --invert out" if invert else "--invert exchanges light and dark"
        print(f"WARNING: {wrong[0]}{more} has a {light} border, and the data's images have a {dark} one: {cure}")


def _borders(images: Tensor) -> Tensor:
    """The mean of the outermost pixels of each image [n, c, h, w], float32 [n]."""
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    return torch.cat([edge.flatten(1) for edge in edges], dim=1).mean(1)


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
