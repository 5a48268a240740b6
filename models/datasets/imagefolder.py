"""imagefolder: images of one's own, in one folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dljobs.errors import DataError, UsageError
from dljobs.models.announcement import announce
from dljobs.models.catalog import dataset
from dljobs.models.data import Data, ItemSplit, Split, TensorSplit, is_read_by_item

from .given_path import given_path
from .images import IMAGE_SUFFIXES, read_image, to_unit_range
from .prepared import prepared
from .splitting import check_share, stratified

# What is kept in memory, as uint8; more than that is read from its files batch by batch.
MAX_BYTES = 1 << 30
NUM_NAMED = 5  # broken files in a message


@dataset(
    "imagefolder",
    summary="images of your own: imagefolder:PATH, with folders train and test, in them one for each class",
    source="the layout of torchvision ImageFolder",
    task="classification",
    shape=None,
    num_classes=None,
)
def imagefolder(
    root: Path,
    *,
    path: str = "",
    split: float = 0.0,
    image_size: int = 32,
    channels: Literal[3, 1] = 3,
    seed: int = 0,
) -> Data:
    """Images turned upright, resized to a square, scaled to [-1, 1]; classes in the order of their folders' names.

    Args:
        path: the folder, on every machine that trains, or the address of an archive: https://…/images.tar.gz#sha256=…
        split: share of each class for tests, where there is no folder test; 0 wants one
        image_size: height and width in pixels
        channels: 3 for colour, 1 for grey
        seed: of the split
    """
    if image_size < 1:
        raise UsageError(f"option 'image_size' of imagefolder must be at least 1, not {image_size}")
    shape = (channels, image_size, image_size)
    given = given_path("imagefolder", path, root, is_folder=True)
    folder = given.path
    parts = _parts(folder, split)
    names = _class_names(parts[0])
    files = [_files(part, names) for part in parts]
    splits = [_load(root, folder, paths, labels, shape) for paths, labels in files]
    if len(splits) == 1:
        train, test = stratified(files[0][1], len(names), split, seed)
        splits = [_Selected(splits[0], train), _Selected(splits[0], test)]
    return Data(
        splits[0],
        splits[1],
        sample_shape=shape,
        num_classes=len(names),
        class_names=names,
        from_raw=to_unit_range,
        origin=given.origin,
    )


class ImageFiles:
    """Images read one by one from their files: a map-style dataset."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, shape: tuple[int, int, int]) -> None:
        self.paths, self.labels, self.shape = paths, labels, shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return to_unit_range(read_image(self.paths[index], self.shape)), self.labels[index]


class _Selected:
    """Some samples of a split."""

    def __init__(self, split: Split, indices: Tensor) -> None:
        self.split, self.indices = split, indices
        self.is_read_by_item = is_read_by_item(split)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.batch(self.indices[indices])


def _parts(folder: Path, split: float) -> list[Path]:
    """The folders of training and test images, or the one that is to be split."""
    train, test = folder / "train", folder / "test"
    if split:
        check_share("imagefolder", split)
        if test.is_dir():
            raise UsageError(
                f"{folder} has a folder test: nothing of it can be split off", "leave the option split out"
            )
        return [train if train.is_dir() else folder]
    if train.is_dir() and test.is_dir():
        return [train, test]
    missing = "train and test" if not train.is_dir() and not test.is_dir() else "train" if test.is_dir() else "test"
    raise DataError(
        f"{folder} has no folder {missing}", "have both, or split off a share of each class: --set split=0.2"
    )


def _folders(part: Path) -> list[Path]:
    return sorted(path for path in part.iterdir() if path.is_dir() and path.name[0] != ".")


def _class_names(part: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _folders(part))
    if len(names) < 2:
        raise DataError(
            f"{part} has {len(names)} folders, and images need one for each of at least two classes",
            hint=f"put them into {part / 'CLASS'}",
        )
    return names


def _files(part: Path, names: tuple[str, ...]) -> tuple[list[Path], Tensor]:
    """The images of one part, class by class, and their labels as int64 [n]."""
    paths: list[Path] = []
    labels: list[int] = []
    for folder in _folders(part):
        if folder.name not in names:
            raise DataError(f"{folder} is a class that the training images do not have: those are {', '.join(names)}")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not found:
            raise DataError(f"class {folder.name!r} is empty: there are no images in {folder}", _suffix_hint())
        paths += found
        labels += [names.index(folder.name)] * len(found)
    if not paths:
        raise DataError(f"there are no images in {part}", _suffix_hint())
    return paths, torch.tensor(labels)


def _suffix_hint() -> str:
    return f"their names end in {', '.join(IMAGE_SUFFIXES)}"


def _load(root: Path, folder: Path, paths: list[Path], labels: Tensor, shape: tuple[int, int, int]) -> Split:
    if len(paths) * torch.Size(shape).numel() > MAX_BYTES:
        return ItemSplit(ImageFiles(paths, labels, shape))
    # Made again whenever a file has changed; of several ranks one does it.
    known = hashlib.sha256(repr(shape).encode())
    for path in paths:
        about = path.stat()
        known.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    cache = root / "imagefolder" / f"{folder.name}-{known.hexdigest()[:16]}.safetensors"
    pixels = prepared(cache, lambda: {"pixels": _read_all(paths, shape)})["pixels"]
    return TensorSplit(pixels, labels, to_unit_range)


def _read_all(paths: list[Path], shape: tuple[int, int, int]) -> Tensor:
    """uint8 [n, c, h, w].

    Raises:
        DataError: some cannot be read; the first of them are named.
    """
    announce(f"reading {len(paths)} images")
    broken: list[str] = []

    def read(path: Path) -> Tensor:
        try:
            return read_image(path, shape)
        except DataError as error:
            broken.append(error.message)
            return torch.zeros(shape, dtype=torch.uint8)

    # Decoding lets go of Python's lock.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pixels = torch.stack(list(pool.map(read, paths)))
    if broken:
        more = f" (and {len(broken) - NUM_NAMED} more)" if len(broken) > NUM_NAMED else ""
        named = "; ".join(sorted(broken)[:NUM_NAMED])
        raise DataError(
            f"{len(broken)} of {len(paths)} images are broken: {named}{more}",
            hint="repair or remove them",
        )
    return pixels
