"""The data record: what of its training data a model's weights depend on, kept with them in their file.

Which output stands for which class, how columns were scaled, and the digest of the file it was learned from. Weights
that are loaded later see other data as they saw those: by the names of the classes, on the scale of the training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dljobs.errors import UsageError

from .data import Data, Origin, Split
from .scaling import Scaling
from .weights import read_metadata

KEY = ".data"  # in the metadata of a state_dict; no parameter's name begins with a dot
MAX_NAMED = 5


@dataclass(frozen=True)
class DataRecord:
    """Each field as in `Data`; None where these data have no such thing, or where nothing was recorded."""

    class_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    scaling: Scaling | None = None
    value_scaling: Scaling | None = None
    origin: Origin | None = None

    @classmethod
    def of(cls, data: Data) -> DataRecord:
        """The record of these data."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def of_weights(cls, path: Path) -> DataRecord:
        """The record in the file of a state_dict, empty where it holds none.

        Raises:
            NotFound, CorruptArtifact: there is no such file, or it is no safetensors file.
        """
        return cls.from_json(read_metadata(path).get(KEY, "{}"))

    def to_json(self) -> str:
        """As text, which is equal for equal data."""
        fields: dict[str, Any] = {"class_names": self.class_names, "columns": self.columns}
        fields["scaling"] = self.scaling and self.scaling.to_lists()
        fields["value_scaling"] = self.value_scaling and self.value_scaling.to_lists()
        fields["origin"] = self.origin and [self.origin.place, self.origin.sha256]
        return json.dumps({key: value for key, value in fields.items() if value is not None}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DataRecord:
        """What `to_json` gave."""
        fields = json.loads(text)
        makers: dict[str, Callable[[Any], Any]] = {
            "class_names": tuple,
            "columns": tuple,
            "scaling": lambda lists: Scaling.from_lists(*lists),
            "value_scaling": lambda lists: Scaling.from_lists(*lists),
            "origin": lambda words: Origin(*words),
        }
        return cls(**{key: make(fields[key]) for key, make in makers.items() if key in fields})

    def apply(self, data: Data) -> Data:
        """These data as the weights know them: labels by the names of the classes, numbers on the scale of then.

        Raises:
            UsageError: a class that was not learned, or other columns.
        """
        if (change := self.change_of(data)) is not None:
            print(
                f"WARNING: {change}: numbers are scaled as they were then, and what is a test sample now may have "
                "been trained on",
                flush=True,
            )
        return self._scaled(self._labelled(data))

    def change_of(self, data: Data) -> str | None:
        """In words, that data from the same place are not the same any more."""
        then, now = self.origin, data.origin
        if then is None or now is None or then.place != now.place or then.sha256 == now.sha256:
            return None
        return f"{now.place} has changed since the training (sha256 {then.sha256[:12]} then, {now.sha256[:12]} now)"

    def _labelled(self, data: Data) -> Data:
        learned, present = self.class_names, data.class_names
        if learned is None or present is None or learned == present:
            return data
        unknown = [name for name in present if name not in learned]
        if unknown:
            raise UsageError(
                f"the model has learned the classes {_listed(learned)}, and these data have {_listed(unknown)}",
                "classes are matched by their names: call them as in the training data",
            )
        label = torch.tensor([learned.index(name) for name in present])
        return _mapped(data, None, lambda y: label[y], num_classes=len(learned), class_names=learned)

    def _scaled(self, data: Data) -> Data:
        if self.columns is not None and data.columns is not None and self.columns != data.columns:
            raise UsageError(
                f"the model has learned from the columns {_listed(self.columns)}, and these data have "
                f"{_listed(data.columns)}"
            )
        x = _between(data.scaling, self.scaling)
        y = _between(data.value_scaling, self.value_scaling)
        if x is None and y is None:
            return data
        scalings = {"scaling": self.scaling, "value_scaling": self.value_scaling, "from_raw": self.scaling}
        return _mapped(data, x, y, **scalings)


class _Mapped:
    """A split whose samples or targets are changed as they are read."""

    def __init__(self, split: Split, x: Callable[[Tensor], Tensor], y: Callable[[Tensor], Tensor]) -> None:
        self.split, self.x, self.y = split, x, y

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.split.batch(indices)
        return self.x(x), self.y(y)


def _mapped(
    data: Data, x: Callable[[Tensor], Tensor] | None, y: Callable[[Tensor], Tensor] | None, **changes: Any
) -> Data:
    change_x, change_y = x or _as_it_is, y or _as_it_is
    train, test = (_Mapped(split, change_x, change_y) for split in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test, **changes)


def _between(now: Scaling | None, then: Scaling | None) -> Callable[[Tensor], Tensor] | None:
    """From one scale to another; None where they are the same."""
    if now is None or then is None or now.to_lists() == then.to_lists():
        return None
    if len(now.mean) != len(then.mean):
        raise UsageError(f"the model has learned from {len(then.mean)} columns, and these data have {len(now.mean)}")
    return lambda scaled: then(now.inverse(scaled))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f", … ({len(names)})" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
