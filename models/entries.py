"""Entries: a model or a dataset as the catalog lists it, and how one is made of a declaration.

It owns what the arguments of `@model` and `@dataset` must be. It does not know where declarations stand (`catalog.py`).
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from dljobs.errors import UsageError

from .declarations import Declaration
from .options import Option, check_options
from .threshold import parse_threshold

Task = Literal["classification", "regression"]
Goal = Literal["max", "min"]
Collection = Literal["zoo", "torchvision", "installed", "own"]

# Each loss and the task it is for. Stands here beside losses.py, because a client checks `--loss` without torch; a test
# keeps the two equal.
LOSS_TASKS: dict[str, Task] = {
    "cross_entropy": "classification",
    "l1": "regression",
    "mse": "regression",
    "sae": "regression",
    "sse": "regression",
}
LOSS_NAMES = tuple(LOSS_TASKS)
# What an evaluation measures, beside evaluation.py for the same reason.
TASK_METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "loss"),
    "regression": ("loss", "mae", "mse", "r2"),
}

MODEL_TEXTS = ("summary", "source", "data", "loss", "metric", "goal", "expected")
OPTIONAL = ("data_options", "reaches", "truth", "variants")
DATASET_TEXTS = ("summary", "source", "task")


@dataclass(frozen=True)
class ModelEntry:
    """A model as the catalog lists it."""

    name: str
    summary: str
    source: str
    num_parameters: int | None
    data: str
    loss: str
    metric: str
    goal: Goal
    defaults: dict[str, Any]  # fields of Training
    expected: str
    target: str  # "dljobs.models.lenet:LeNet"
    options: dict[str, Option]
    doc: str
    data_options: dict[str, Any] = field(default_factory=dict)  # go with `data` only
    reaches: str = ""
    truth: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)  # "option=value" to fields of Training
    follows_data: bool = False  # nothing is declared: it is for whatever task the data are for
    collection: Collection = "zoo"

    def defaults_with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of Training that this entry sets where these options of the model are given."""
        chosen = {name: options.get(name, option.default) for name, option in self.options.items()}
        found = dict(self.defaults)
        for condition, changes in self.variants.items():
            name, _, value = condition.partition("=")
            if str(chosen[name]) == value:
                found |= changes
        return found

    def for_task(self, task: Task) -> ModelEntry:
        """The entry with a loss for data of that task, where it may be for any."""
        if not self.follows_data or LOSS_TASKS[self.loss] == task:
            return self
        if task == "regression":
            return replace(self, loss="mse", metric="loss", goal="min")
        return replace(self, loss="cross_entropy", metric="accuracy", goal="max")


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset as the catalog lists it."""

    name: str
    summary: str
    source: str
    task: Task  # with default options
    shape: tuple[int, ...] | None  # of one sample, with default options; None: it depends on what is given
    num_classes: int | None  # None also where it depends on what is given
    target: str  # "dljobs.models.datasets.digits:digits"
    options: dict[str, Option]
    doc: str
    downloads: bool = False
    takes_root: bool = True  # its function is given the data folder first

    def task_with(self, options: Mapping[str, Any]) -> Task:
        """The task it is for with these options."""
        return cast("Task", options["task"]) if "task" in self.options and "task" in options else self.task


def model_entry(declaration: Declaration, target: str) -> ModelEntry:
    """The entry that a `@model` declares.

    Raises:
        DljobsError: an argument is missing or wrong; the message holds file and line.
    """
    given = dict(declaration.arguments)
    texts = _texts(declaration, given, MODEL_TEXTS)
    if texts["goal"] not in ("max", "min"):
        raise declaration.error(f"has the goal {texts['goal']!r}: it is 'max' or 'min'")
    if texts["loss"] not in LOSS_NAMES:
        raise declaration.error(f"has the loss {texts['loss']!r}: it is one of {', '.join(LOSS_NAMES)}")
    num_parameters = _taken(declaration, given, "num_parameters")
    if num_parameters is not None and type(num_parameters) is not int:
        raise declaration.error("needs num_parameters as a whole number, or None where it depends on the data")
    optional = {name: given.pop(name) for name in OPTIONAL if name in given}
    _check_optional(declaration, LOSS_TASKS[texts["loss"]], optional)
    follows_data = bool(given.pop("follows_data", False))
    return ModelEntry(
        name=declaration.name,
        summary=texts["summary"],
        source=texts["source"],
        num_parameters=num_parameters,
        data=texts["data"],
        loss=texts["loss"],
        metric=texts["metric"],
        goal=cast("Goal", texts["goal"]),
        defaults=given,  # what is left are fields of Training, which the service knows
        expected=texts["expected"],
        target=target,
        options=declaration.options,
        doc=declaration.doc,
        **optional,
        follows_data=follows_data,
    )


def _check_optional(declaration: Declaration, task: Task, optional: Mapping[str, Any]) -> None:
    dicts = {name: optional.get(name, {}) for name in ("data_options", "truth", "variants")}
    wrong = next((name for name, value in dicts.items() if not isinstance(value, dict)), None)
    if wrong:
        raise declaration.error(f"needs {wrong!r} as a dict, not {optional[wrong]!r}")
    if not all(isinstance(changes, dict) for changes in dicts["variants"].values()):
        raise declaration.error('needs its variants as {"option=value": {"lr": 0.1}}')
    try:
        if optional.get("reaches"):
            parse_threshold(optional["reaches"], TASK_METRICS[task])
        for condition in dicts["variants"]:
            name, _, value = condition.partition("=")
            check_options(declaration.name, declaration.options, {name: value})
    except UsageError as error:
        raise declaration.error(f"is wrong: {error.message}") from error


def dataset_entry(declaration: Declaration, target: str) -> DatasetEntry:
    """The entry that a `@dataset` declares; raises as `model_entry`."""
    given = dict(declaration.arguments)
    texts = _texts(declaration, given, DATASET_TEXTS)
    if texts["task"] not in ("classification", "regression"):
        raise declaration.error(f"has the task {texts['task']!r}: it is 'classification' or 'regression'")
    shape = _taken(declaration, given, "shape")
    if shape is not None and (not isinstance(shape, tuple) or not all(type(size) is int for size in shape)):
        raise declaration.error(f"needs its shape as a tuple of whole numbers, not {shape!r}")
    num_classes = _taken(declaration, given, "num_classes")
    # A shape that depends on what is given makes the number of classes depend on it too.
    if shape is not None and (num_classes is None) != (texts["task"] == "regression"):
        raise declaration.error(f"has num_classes={num_classes!r}, which does not go with {texts['task']}")
    downloads, takes_root = bool(given.pop("downloads", False)), bool(given.pop("takes_root", True))
    if given:
        raise declaration.error(f"has an argument that no dataset takes: {', '.join(given)}")
    return DatasetEntry(
        name=declaration.name,
        summary=texts["summary"],
        source=texts["source"],
        task=cast("Task", texts["task"]),
        shape=shape,
        num_classes=num_classes,
        target=target,
        options=declaration.options,
        doc=declaration.doc,
        downloads=downloads,
        takes_root=takes_root,
    )


def _texts(declaration: Declaration, given: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Take the required texts out of the given arguments."""
    texts = {name: _taken(declaration, given, name) for name in names}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise declaration.error(f"needs {name!r} as a text that is not empty, not {text!r}")
    return texts


def _taken(declaration: Declaration, given: dict[str, Any], name: str) -> Any:
    if name not in given:
        raise declaration.error(f"lacks the argument {name!r}")
    return given.pop(name)
