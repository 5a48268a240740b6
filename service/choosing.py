"""Choosing: what the words for a model and for data mean: a name of the catalog, a file of one's own, or a path.

It owns the forms `lenet`, `./net.py:Net`, `digits`, `./data.py:make_data` and `csv:PATH`. What the chosen entries can
be given is checked by `submission.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dljobs.errors import UsageError
from dljobs.models.catalog import (
    LOSS_TASKS,
    DatasetEntry,
    ModelEntry,
    Reference,
    datasets,
    find_dataset,
    find_model,
    own_dataset,
    own_model,
)
from dljobs.models.location import Location

from .freezing import Frozen, freeze

PATH_OPTION = "path"
TABLE = "csv"
TEST_OPTION = "test"  # of tables: the path of another one, for tests


@dataclass(frozen=True)
class ChosenModel:
    """A model, and the frozen files it is in if it is one of the user's own."""

    entry: ModelEntry
    name: str  # in the spec
    source: Frozen | None = None

    @property
    def digest(self) -> str | None:
        """Of its frozen files."""
        return None if self.source is None else self.source.digest


@dataclass(frozen=True)
class ChosenData:
    """A dataset, the frozen files it is in, and the options that its word already gave."""

    entry: DatasetEntry
    name: str
    source: Frozen | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """Of its frozen files."""
        return None if self.source is None else self.source.digest


def choose_model(text: str, folder: str | None = None) -> ChosenModel:
    """The model that a user's word means.

    Args:
        folder: what `--with` names: it is frozen together with a file of one's own.

    Raises:
        UnknownName, UsageError: it means none.
    """
    reference = Reference.parse(text)
    if reference is None:
        return ChosenModel(find_model(text), text)
    frozen = freeze(reference, None if folder is None else Path(folder))
    entry = own_model(frozen.content, reference)
    return ChosenModel(entry, _spec_name(frozen, entry.target), frozen)


def choose_data(text: str, folder: str | None = None) -> ChosenData:
    """The data that a user's word means; arguments and errors as `choose_model`."""
    kind, colon, path = text.partition(":")
    if colon and not kind.endswith(".py") and kind in datasets():
        entry = find_dataset(kind)
        if PATH_OPTION not in entry.options:
            raise UsageError(f"dataset {kind} takes no path, and was given {path!r}", f"write --data {kind}")
        return ChosenData(entry, kind, options={PATH_OPTION: path})
    reference = Reference.parse(text)
    if reference is None:
        return ChosenData(find_dataset(text), text)
    frozen = freeze(reference, None if folder is None else Path(folder))
    made = own_dataset(frozen.content, reference)
    return ChosenData(made, _spec_name(frozen, made.target), frozen)


def match(
    chosen: ChosenModel, data: ChosenData, model_options: Mapping[str, Any], data_options: Mapping[str, Any]
) -> ModelEntry:
    """The model's entry with a loss for these data.

    Raises:
        UsageError: the model is for another task, or was given fewer classes than the data have.
    """
    task = data.entry.task_with(data_options)
    model = chosen.entry.for_task(task)
    if LOSS_TASKS[model.loss] != task:
        raise UsageError(
            f"model {model.name} is for {LOSS_TASKS[model.loss]}, and dataset {data.entry.name} is for {task}",
            f"its own dataset is {model.data}",
        )
    known, given = data_options.get("num_classes", data.entry.num_classes), model_options.get("num_classes")
    if known is not None and given is not None and given < known:
        raise UsageError(
            f"{model.name} was given {given} classes, and {data.entry.name} has {known}",
            f"leave num_classes out, or set it to {known}",
        )
    return model


def absolute_path(entry: DatasetEntry, options: dict[str, Any]) -> None:
    """Make the path of data absolute, because a worker has another working folder; an address stays as it is.

    Raises:
        UsageError: the data need one and none was given, or an address cannot be right.
    """
    if PATH_OPTION not in entry.options:
        return
    if not options.get(PATH_OPTION):
        raise UsageError(f"dataset {entry.name} needs a path", f"write --data {entry.name}:PATH")
    for name in (PATH_OPTION, TEST_OPTION) if entry.name == TABLE else (PATH_OPTION,):
        if options.get(name) and Location.parse(options[name]) is None:
            options[name] = str(Path(options[name]).expanduser().absolute())


def _spec_name(frozen: Frozen, target: str) -> str:
    name = frozen.name(target.rpartition(":")[2])
    if len(name) > 200:
        raise UsageError(f"{name[:40]}… is too long a name for a model or data: at most 200 characters")
    return name
