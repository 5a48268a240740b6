"""mnist and fashion-mnist, in torchvision's folders and from its mirrors."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dljobs.errors import DataError
from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit

from .download import fetch, is_whole
from .images import padded_to_unit_range
from .prepared import prepared

GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
UBYTE = 0x08  # an IDX file's third byte: its values are unsigned bytes


@dataset(
    "mnist",
    summary="70,000 handwritten digits, 28×28 padded to 1×32×32",
    source="LeCun, Cortes, Burges: The MNIST Database of Handwritten Digits, as torchvision has it",
    task="classification",
    shape=(1, 32, 32),
    num_classes=10,
    downloads=True,
)
def mnist(root: Path) -> Data:
    """60,000 training and 10,000 test images of digits, scaled to [-1, 1]. Downloads 12 MB into MNIST/raw."""
    return _load("mnist", "MNIST", tuple("0123456789"), root)


@dataset(
    "fashion-mnist",
    summary="70,000 pictures of garments, 28×28 padded to 1×32×32",
    source="Xiao, Rasul, Vollgraf 2017: Fashion-MNIST, as torchvision has it",
    task="classification",
    shape=(1, 32, 32),
    num_classes=10,
    downloads=True,
)
def fashion_mnist(root: Path) -> Data:
    """60,000 training and 10,000 test images of garments, scaled to [-1, 1]. Downloads 31 MB into FashionMNIST/raw."""
    return _load("fashion-mnist", "FashionMNIST", GARMENTS, root)


def _load(name: str, torchvision_name: str, class_names: tuple[str, ...], root: Path) -> Data:
    tensors = prepared(root / f"{name}-1.safetensors", lambda: _prepare(name, torchvision_name, root))
    splits = {
        part: TensorSplit(tensors[f"{part}-images"], tensors[f"{part}-labels"].long(), padded_to_unit_range)
        for part in ("train", "t10k")
    }
    return Data(
        splits["train"],
        splits["t10k"],
        sample_shape=(1, 32, 32),
        num_classes=len(class_names),
        class_names=class_names,
        from_raw=padded_to_unit_range,
        raw_shape=(1, 28, 28),
    )


def _prepare(name: str, torchvision_name: str, root: Path) -> dict[str, Tensor]:
    """All four files as uint8 tensors: images [n, 1, 28, 28] and labels [n] of "train" and "t10k"."""
    import torchvision

    published = getattr(torchvision.datasets, torchvision_name)
    folder = root / torchvision_name / "raw"
    _complete(name, published, folder)
    tensors = {}
    for part in ("train", "t10k"):
        images = _read(folder, f"{part}-images-idx3-ubyte", num_dimensions=3)
        labels = _read(folder, f"{part}-labels-idx1-ubyte", num_dimensions=1)
        if images is None or labels is None or images.shape != (len(labels), 28, 28):
            raise DataError(f"the {part} files of {name} in {folder} are no 28×28 images with as many labels")
        tensors[f"{part}-images"] = images[:, None]
        tensors[f"{part}-labels"] = labels
    return tensors


def _complete(name: str, published: Any, folder: Path) -> None:
    """Download what the folder lacks: neither the archive with its digest nor the same file unpacked and whole."""
    missing = [
        (archive, md5)
        for archive, md5 in published.resources
        if not is_whole(folder / archive, md5) and _unpacked(folder, archive.removesuffix(".gz")) is None
    ]
    for at, (archive, md5) in enumerate(missing):
        files = ", ".join(still_missing for still_missing, _ in missing[at:])
        hint = f"put {files} (from {published.mirrors[0]}) into {folder} to use {name} without the internet"
        fetch(name, folder / archive, [mirror + archive for mirror in published.mirrors], md5, hint)


def _read(folder: Path, stem: str, num_dimensions: int) -> Tensor | None:
    tensor = _unpacked(folder, stem)
    if tensor is None:
        try:
            tensor = _parse(gzip.decompress((folder / f"{stem}.gz").read_bytes()))
        except (OSError, EOFError, zlib.error):
            return None
    return tensor if tensor is not None and tensor.ndim == num_dimensions else None


def _unpacked(folder: Path, stem: str) -> Tensor | None:
    try:
        return _parse((folder / stem).read_bytes())
    except OSError:
        return None


def _parse(content: bytes) -> Tensor | None:
    """A file in IDX format: two zero bytes, type, number of dimensions, each size in 4 bytes, then the values.

    None if it is anything else, or cut short: torchvision takes an unpacked file's existence for its being whole.
    """
    if len(content) < 4 or content[:3] != bytes((0, 0, UBYTE)):
        return None
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        return None
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)
