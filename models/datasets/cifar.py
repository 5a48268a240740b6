"""cifar10, in torchvision's folder and from its address."""

from __future__ import annotations

import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dljobs.errors import DataError
from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit

from .download import fetch, is_whole
from .images import to_unit_range
from .prepared import prepared, storage_errors

CLASS_NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataset(
    "cifar10",
    summary="60,000 colour pictures of ten kinds of things, 3×32×32",
    source="Krizhevsky 2009: Learning Multiple Layers of Features from Tiny Images, as torchvision has it",
    task="classification",
    shape=(3, 32, 32),
    num_classes=10,
    downloads=True,
)
def cifar10(root: Path) -> Data:
    """50,000 training and 10,000 test images, normalised to [-1, 1] as in the 60-minute blitz. Downloads 170 MB."""
    tensors = prepared(root / "cifar10-1.safetensors", lambda: _prepare(root))
    return Data(
        TensorSplit(tensors["train-images"], tensors["train-labels"].long(), to_unit_range),
        TensorSplit(tensors["test-images"], tensors["test-labels"].long(), to_unit_range),
        sample_shape=(3, 32, 32),
        num_classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        from_raw=to_unit_range,
    )


def _prepare(root: Path) -> dict[str, Tensor]:
    """Images [n, 3, 32, 32] and labels [n] as uint8, from the folder, its archive, or the internet."""
    from torchvision.datasets import CIFAR10

    members = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [CIFAR10.meta["filename"]]
    if _has_folder(CIFAR10, root):
        return _tensors(CIFAR10, root)
    archive = root / CIFAR10.filename
    if not is_whole(archive, CIFAR10.tgz_md5):
        hint = (
            f"put {CIFAR10.filename} (from {CIFAR10.url}) into {root}, or its files {', '.join(members)} into "
            f"{root / CIFAR10.base_folder}, to use cifar10 without the internet"
        )
        fetch("cifar10", archive, [CIFAR10.url], CIFAR10.tgz_md5, hint)
    scratch = root / ".cifar10-unpacked"
    try:
        _unpack(archive, members, scratch / CIFAR10.base_folder)
        return _tensors(CIFAR10, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _has_folder(published: Any, root: Path) -> bool:
    wanted = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    return all(is_whole(root / published.base_folder / name, md5) for name, md5 in wanted)


def _unpack(archive: Path, members: list[str], folder: Path) -> None:
    """Only the named files, by their last name: nothing in an archive can choose where it is written."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                source = tar.extractfile(member) if Path(member.name).name in members else None
                if source is not None:
                    with (folder / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(source, file)


def _tensors(published: Any, root: Path) -> dict[str, Tensor]:
    tensors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy 2.4 dislikes how the published files describe their arrays
        for part, train in (("train", True), ("test", False)):
            try:
                # These files are pickles. torchvision reads one only if it has the published digest.
                split = published(root, train=train, download=False)
            except (RuntimeError, OSError) as error:
                raise DataError(f"the files of cifar10 in {root} cannot be read: {error}") from error
            tensors[f"{part}-images"] = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
            tensors[f"{part}-labels"] = torch.tensor(split.targets, dtype=torch.uint8)
    return tensors
