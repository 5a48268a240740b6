"""digits: the handwritten digits that come with scikit-learn, so that the first job needs no internet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit

from .images import to_unit_range
from .prepared import prepared
from .splitting import stratified

NUM_CLASSES = 10
TEST_SHARE = 0.2


@dataset(
    "digits",
    summary="1,797 scanned handwritten digits, enlarged from 8×8 to 1×32×32; comes with dljobs",
    source="scikit-learn load_digits: test set of UCI Optical Recognition of Handwritten Digits, 1998",
    task="classification",
    shape=(1, 32, 32),
    num_classes=10,
)
def digits(root: Path, *, seed: int = 0) -> Data:
    """8×8 scans enlarged bilinearly to 32×32 and scaled to [-1, 1]; a fifth of each class is for tests.

    Args:
        seed: of the split into training and test data
    """
    # Importing scikit-learn takes about a second, in each rank: only the first load ever pays for it.
    tensors = prepared(root / "digits-1.safetensors", _from_scikit_learn)
    images, labels = tensors["images"], tensors["labels"].long()
    pixels = _enlarged(images[:, None].float() / 8 - 1)
    train, test = stratified(labels, NUM_CLASSES, TEST_SHARE, seed)
    return Data(
        TensorSplit(pixels[train], labels[train]),
        TensorSplit(pixels[test], labels[test]),
        sample_shape=(1, 32, 32),
        num_classes=NUM_CLASSES,
        class_names=tuple("0123456789"),
        from_raw=lambda pixels: _enlarged(to_unit_range(pixels)),
        raw_shape=(1, 8, 8),
    )


def _enlarged(images: Tensor) -> Tensor:
    return functional.interpolate(images, size=32, mode="bilinear", align_corners=False)


def _from_scikit_learn() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return {
        "images": torch.tensor(bunch.images, dtype=torch.uint8),  # [1797, 8, 8], 0 to 16
        "labels": torch.tensor(bunch.target, dtype=torch.uint8),
    }
