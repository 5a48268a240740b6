"""Data: what a model is trained and tested on, as two splits that give batches by index.

It owns the types that every dataset returns and the check that they hold together. It does not know where the samples
come from (datasets/) nor which rank sees which of them (the trainer's sampler): a split gives the samples asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dljobs.errors import DataError, UsageError

from .catalog import Task, check_options, find_dataset, resolve
from .scaling import Scaling


class Split(Protocol):
    """Samples with an index from 0 to len - 1."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """For an int64 tensor [n]: x[n, …] as float32, and y[n] as int64 classes or y[n, …] as float32 values."""


class Indexable(Protocol):
    """A map-style dataset as torch and torchvision have them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class TensorSplit:
    """Samples held in memory. `transform` turns the selected rows of x, in the type they are kept in, into float32."""

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} samples with {len(y)} labels")
        self.x = x
        self.y = y
        self.transform = transform

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        # Rows are copied whole. `x[indices]` goes by the element: 25 times slower for pixels of one byte.
        x, y = self.x.index_select(0, indices), self.y.index_select(0, indices)
        return (self.transform(x) if self.transform else x.float()), y


class ItemSplit:
    """Samples made one by one by a map-style dataset of (tensor, label) pairs, stacked; `transform` as of tensors."""

    is_read_by_item = True

    def __init__(self, dataset: Indexable, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        items = [self.dataset[index] for index in indices.tolist()]
        x = torch.stack([torch.as_tensor(x) for x, _ in items])
        y = torch.stack([torch.as_tensor(y) for _, y in items])
        return (self.transform(x) if self.transform else x.float()), y


def is_read_by_item(split: Split) -> bool:
    """Whether each sample costs a file or a computation of its own, anew each time, so that reading ahead pays."""
    return bool(getattr(split, "is_read_by_item", False))


class HeldSplit(TensorSplit):
    """Samples that follow from their index alone: each is made when it is first wanted, and held in memory since.

    Args:
        dataset: gives (x in the type that it is to be held in, label), always the same for an index.
    """

    def __init__(self, dataset: Indexable, transform: Callable[[Tensor], Tensor]) -> None:
        x = dataset[0][0]
        # Memory that nobody has touched is not there yet.
        kept = torch.empty(len(dataset), *x.shape, dtype=x.dtype), torch.zeros(len(dataset), dtype=torch.int64)
        super().__init__(*kept, transform)
        self.dataset = dataset
        self._is_made = torch.zeros(len(dataset), dtype=torch.bool)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        for index in indices[~self._is_made[indices]].tolist():
            self.x[index], self.y[index] = self.dataset[index]
            self._is_made[index] = True
        return super().batch(indices)


@dataclass(frozen=True)
class Origin:
    """Where a user's own data are from, and the digest of the file that they were read from."""

    place: str  # a path or an address
    sha256: str


@dataclass(frozen=True)
class Data:
    """A loaded dataset. `sample_shape` is without the batch; regression has neither `num_classes` nor `class_names`.

    `from_raw` makes samples of what a user has: of rows of numbers, float64 [n, k], or of the pixels of pictures, uint8
    [n, c, h, w] of the `raw_shape` (that of a sample unless given).
    `scaling` and `value_scaling`: how the columns of a table, and the values to learn, were scaled.
    `columns` and `target_column`: what the numbers of a row are called, and what is learned from them.
    `truth`, where it is known: the function that the data come from, from x[n, …] to y[n, …] without noise.
    `endless`: the training samples are numbered without end (index 10 of ten points is the first one again, or a fresh
    random one); an epoch takes the next `len(train)` of them in their order, unshuffled.
    """

    train: Split
    test: Split
    sample_shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    task: Task = "classification"
    from_raw: Callable[[Tensor], Tensor] | None = None
    raw_shape: tuple[int, ...] | None = None
    scaling: Scaling | None = None
    value_scaling: Scaling | None = None
    columns: tuple[str, ...] | None = None
    target_column: str | None = None
    origin: Origin | None = None
    truth: Callable[[Tensor], Tensor] | None = None
    endless: bool = False

    def __post_init__(self) -> None:
        if (self.task == "classification") != (self.num_classes is not None):
            raise ValueError(f"num_classes={self.num_classes} does not go with the task {self.task}")
        if self.class_names is not None and len(set(self.class_names)) != self.num_classes:
            raise ValueError(f"{self.num_classes} classes need as many different names, not {self.class_names}")

    def in_units(self, values: Tensor) -> Tensor:
        """What a model gives, or what it learns, in the user's units."""
        return values if self.value_scaling is None else self.value_scaling.inverse(values)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, or their numbers where they have none; empty for regression."""
        return self.class_names or tuple(str(number) for number in range(self.num_classes or 0))


def require_positive(dataset: str, **counts: int) -> None:
    """Check options that count something. Raises UsageError, which names the first that is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"option {name!r} of {dataset} must be at least 1, not {value}")


def load_data(name: str, options: Mapping[str, object], root: Path) -> Data:
    """Load a dataset of the zoo, preparing it in the data folder `root` where it is not there yet.

    Raises:
        UnknownName, UsageError: no such dataset or option, or a value that the option cannot take.
        DataError: the data cannot be had or read, or do not hold what they declare.
        StorageFull: no room in the data folder.
    """
    entry = find_dataset(name)
    settings = check_options(entry.name, entry.options, options)
    make = resolve(entry.target)
    data = make(root.expanduser(), **settings) if entry.takes_root else make(**settings)
    if not isinstance(data, Data):
        raise UsageError(f"{entry.name} gave a {type(data).__name__}, where data are a dljobs.models.data.Data")
    for part, split in (("training", data.train), ("test", data.test)):
        _check_split(f"the {part} data of {entry.name}", split, data)
    return data


def _check_split(what: str, split: Split, data: Data) -> None:
    if len(split) == 0:
        raise DataError(f"{what} hold no samples")
    # Only labels that are in memory: going through the others would cost as much as an epoch.
    if data.num_classes is None or not isinstance(split, TensorSplit):
        return
    low, high = (int(bound) for bound in split.y.aminmax())
    if low < 0 or high >= data.num_classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"{what} hold the label {wrong}, and its {data.num_classes} classes are 0 to {data.num_classes - 1}"
        )
