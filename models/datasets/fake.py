"""fake: random images, to try a model, a machine or a whole cluster without any data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dljobs.errors import UsageError
from dljobs.models.catalog import dataset
from dljobs.models.data import Data, HeldSplit, ItemSplit, Split, require_positive

from .images import to_unit_range

# torch takes seeds of 64 bits; this leaves room for the index that is added.
MAX_SEED = 2**40
MAX_HELD_BYTES = 1 << 30


@dataset(
    "fake",
    summary="random images with random labels, of any size and number; nothing can be learned from it",
    source="torchvision FakeData",
    task="classification",
    shape=(3, 32, 32),
    num_classes=10,
)
def fake(
    root: Path,
    *,
    size: int = 1000,
    test_size: int = 200,
    channels: Literal[3, 1] = 3,
    image_size: int = 32,
    num_classes: int = 10,
    seed: int = 0,
) -> Data:
    """Each image and label follows from its index alone: the same in every rank and every run, scaled to [-1, 1].

    Args:
        size: number of training samples
        test_size: number of test samples
        channels: 3 for colour, 1 for grey
        image_size: height and width in pixels
        num_classes: labels go from 0 to num_classes - 1
        seed: another one gives other images
    """
    require_positive("fake", size=size, test_size=test_size, image_size=image_size, num_classes=num_classes)
    if not 0 <= seed * (size + test_size) <= MAX_SEED:
        raise UsageError(f"option 'seed' of fake must be from 0 to {MAX_SEED // (size + test_size)}, not {seed}")
    shape = (channels, image_size, image_size)
    # Test samples begin where the training samples end: none is in both.
    first = seed * (size + test_size)
    return Data(
        _split(FakeImages(size, shape, num_classes, first)),
        _split(FakeImages(test_size, shape, num_classes, first + size)),
        sample_shape=shape,
        num_classes=num_classes,
        from_raw=to_unit_range,
    )


def _split(images: FakeImages) -> Split:
    fits = len(images) * math.prod(images.shape) <= MAX_HELD_BYTES
    return HeldSplit(images, to_unit_range) if fits else ItemSplit(images, to_unit_range)


class FakeImages:
    """The same samples as torchvision's FakeData with a random_offset.

    Not FakeData itself, because it seeds the global generators for each sample and puts back only the CPU's: on a GPU
    the model's dropout would start anew with every batch.
    """

    def __init__(self, size: int, shape: tuple[int, int, int], num_classes: int, offset: int) -> None:
        self.size = size
        self.shape = shape
        self.num_classes = num_classes
        self.offset = offset

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.size:
            raise IndexError(f"sample {index} of {self.size}")
        generator = torch.Generator().manual_seed(index + self.offset)
        image = torch.randn(self.shape, generator=generator)
        label = torch.randint(0, self.num_classes, (1,), generator=generator)[0]
        # What FakeData's way through a PIL image does to the numbers.
        return image.mul(255).byte(), label
