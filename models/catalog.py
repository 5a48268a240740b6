"""The catalog: which models and datasets the zoo has, their options and defaults, as every client knows them.

It owns the two decorators and what their arguments mean. It reads the declarations as text (`declarations.py`) and
imports neither torch nor the files it lists; only `resolve`, on the side of the ranks, imports one. So a new model is
one file with one decorator, and it appears in `dljobs models`, in validation and in the tests. A name such as
`./net.py:Net` is not in the catalog: its entry is read from that file, whether it is declared there or not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from dljobs.errors import DljobsError, UnknownName, UsageError

from .declarations import Declaration, read_declarations
from .options import Option, check_options, coerce
from .references import Reference
from .threshold import parse_threshold
from .undeclared import FITTED_NAMES, read_own

__all__ = [
    "FITTED_NAMES",
    "LOSS_NAMES",
    "LOSS_TASKS",
    "TASK_METRICS",
    "Catalog",
    "DatasetEntry",
    "ModelEntry",
    "Option",
    "Reference",
    "check_options",
    "coerce",
    "dataset",
    "datasets",
    "find_dataset",
    "find_model",
    "model",
    "models",
    "own_dataset",
    "own_model",
    "read_catalog",
    "resolve",
]

Task = Literal["classification", "regression"]
Goal = Literal["max", "min"]
Declared = TypeVar("Declared", bound=Callable[..., Any])

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


def model(  # noqa: PLR0913 (it is a form to fill in, and mypy checks each declaration against it)
    name: str,
    *,
    summary: str,
    source: str,
    num_parameters: int | None,
    data: str,
    loss: str,
    metric: str,
    goal: Goal,
    expected: str,
    data_options: Mapping[str, Any] = MappingProxyType({}),
    reaches: str = "",
    truth: Mapping[str, Any] = MappingProxyType({}),
    variants: Mapping[str, Mapping[str, int | float | str]] = MappingProxyType({}),
    **training: int | float | str,
) -> Callable[[Declared], Declared]:
    """Declare the class or function below as a model of the zoo. Only its text counts: at run time it does nothing.

    Args:
        name: what `dljobs submit` is given.
        summary: one line for `dljobs models`.
        source: the paper, book or tutorial it follows.
        num_parameters: with default options; None where that depends on the data.
        data: its default dataset, by name.
        loss: one of LOSS_NAMES.
        metric: what "best" is judged by, e.g. "accuracy" or "loss"; higher is better if goal is "max".
        goal: "max" or "min".
        expected: the result that a run with all defaults reaches, in words.
        data_options: options of its default dataset that it needs other than they are.
        reaches: the same as a threshold on a test metric (`test.accuracy>=0.97`), which `make zoo` holds it to.
        truth: where the data have one, the parameters that are learned, within 0.1: {"weight": [[0.5, 3.0]]}.
        variants: defaults that depend on an option of the model: {"implementation=optim": {"optimizer": "adam"}}.
        training: defaults of any field of `Training` (epochs, batch_size, lr, …).
    """
    return lambda declared: declared


def dataset(
    name: str,
    *,
    summary: str,
    source: str,
    task: Task,
    shape: tuple[int, ...] | None,
    num_classes: int | None,
    downloads: bool = False,
) -> Callable[[Declared], Declared]:
    """Declare the function below, `(root: Path, *, option=…) -> Data`, as a dataset of the zoo.

    `shape` is one sample's, without the batch; `num_classes` is None for regression; both are None where they depend on
    what the user gives. `downloads` says that it is fetched from the internet where the data folder does not have it.
    A dataset with an option `path` is submitted as `NAME:PATH`, one with an option `task` for either task.
    """
    return lambda declared: declared


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


@dataclass(frozen=True)
class Catalog:
    """Everything declared under one folder, by name."""

    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]


def models() -> dict[str, ModelEntry]:
    """Every model of the zoo by its name. Read once per process."""
    return _zoo().models


def datasets() -> dict[str, DatasetEntry]:
    """Every dataset by its name. Read once per process."""
    return _zoo().datasets


def find_model(name: str) -> ModelEntry:
    """The model of that name, or the one that a reference such as `net.py:Net` names.

    Raises:
        UnknownName: there is none; the message holds the nearest name.
        UsageError: the file is not there or cannot be used.
    """
    if reference := Reference.parse(name):
        return own_model(_content(reference.file), reference)
    if name not in models():
        raise UnknownName("model", name, models(), hint="`dljobs models` lists them")
    return models()[name]


def find_dataset(name: str) -> DatasetEntry:
    """The dataset of that name, or the one that a reference such as `data.py:make_data` names.

    Raises:
        UnknownName: there is none; the message holds the nearest name.
        UsageError: the file is not there or cannot be used.
    """
    if reference := Reference.parse(name):
        return own_dataset(_content(reference.file), reference)
    if name not in datasets():
        raise UnknownName("dataset", name, datasets())
    return datasets()[name]


def own_model(source: bytes, reference: Reference) -> ModelEntry:
    """The model in a file with this content.

    Raises:
        UsageError: the file has no such name, or what it says of it cannot be used.
    """
    with _as_usage():
        declaration = read_own(source, reference.file, reference.symbol, "model")
        entry = _model_entry(declaration, f"{reference.file}:{declaration.symbol}")
    return replace(entry, name=f"{reference.file.name}:{declaration.symbol}")


def own_dataset(source: bytes, reference: Reference) -> DatasetEntry:
    """The dataset in a file with this content; raises as `own_model`."""
    with _as_usage():
        declaration = read_own(source, reference.file, reference.symbol, "dataset")
        entry = _dataset_entry(declaration, f"{reference.file}:{declaration.symbol}")
    return replace(entry, name=f"{reference.file.name}:{declaration.symbol}")


def resolve(target: str) -> Any:
    """Import what "package.module:symbol" or "folder/file.py:symbol" names. For ranks: this is where torch comes in."""
    module, _, symbol = target.rpartition(":")
    if module.endswith(".py"):
        from .own_code import import_symbol

        return import_symbol(Path(module), symbol)
    return getattr(importlib.import_module(module), symbol)


def read_catalog(folder: Path, package: str) -> Catalog:
    """All declarations in `folder` and below, which is imported as `package`.

    Raises:
        DljobsError: a declaration that is incomplete or wrong, or a name given twice; it names the file and line.
    """
    catalog = Catalog({}, {})
    placed: dict[tuple[str, str], Declaration] = {}
    for file in _python_files(folder):
        for declaration in read_declarations(file):
            key = (declaration.kind, declaration.name)
            if key in placed:
                raise declaration.error(f"is declared twice: also at {placed[key].file}:{placed[key].line}")
            placed[key] = declaration
            module = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            target = f"{module}:{declaration.symbol}"
            if declaration.kind == "model":
                catalog.models[declaration.name] = _model_entry(declaration, target)
            else:
                catalog.datasets[declaration.name] = _dataset_entry(declaration, target)
    return Catalog(dict(sorted(catalog.models.items())), dict(sorted(catalog.datasets.items())))


@functools.cache
def _zoo() -> Catalog:
    return read_catalog(Path(__file__).parent, __package__ or "dljobs.models")


@contextlib.contextmanager
def _as_usage() -> Iterator[None]:
    """What is wrong with a declaration is a bug in the zoo, and in a user's own file a wrong value given."""
    try:
        yield
    except UsageError:
        raise
    except DljobsError as error:
        raise UsageError(error.message, error.hint) from error


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _python_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield path
        elif not path.suffix and path.name[0] not in "._" and path.is_dir():
            yield from _python_files(path)


def _model_entry(declaration: Declaration, target: str) -> ModelEntry:
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


def _dataset_entry(declaration: Declaration, target: str) -> DatasetEntry:
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
