"""From files and stored pixels to what a network takes: uint8 in memory, float32 in [-1, 1] in a batch.

It owns that way, the same for every image dataset of the zoo and for the images that a trained model is shown.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dljobs.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 [n, c, h, w] from 0 to 255, as float32 from -1 to 1 (mean 0.5 and deviation 0.5 of the tutorial)."""
    return pixels.float().div_(127.5).sub_(1.0)


def padded_to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 [n, 1, 28, 28] as float32 [n, 1, 32, 32], with a border in the colour of the background."""
    return to_unit_range(functional.pad(pixels, (2, 2, 2, 2)))


def read_image(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The image in a file as uint8 [c, h, w]: turned upright, made grey or coloured, resized, on white.

    Raises:
        DataError: it is none that can be read.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    resized = on_white.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized, dtype=np.uint8))
    return pixels.reshape(height, width, channels).permute(2, 0, 1)
