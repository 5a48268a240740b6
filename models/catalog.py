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
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from dljobs.errors import DljobsError, UnknownName, UsageError

from .declarations import Declaration, read_declarations
from .entries import (
    LOSS_NAMES,
    LOSS_TASKS,
    TASK_METRICS,
    DatasetEntry,
    Goal,
    ModelEntry,
    Task,
    dataset_entry,
    model_entry,
)
from .options import Option, check_options, coerce
from .references import Reference
from .undeclared import FITTED_NAMES, read_own

if TYPE_CHECKING:
    from .installed import Installed

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
    "Task",
    "all_models",
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
    "problems",
    "read_catalog",
    "resolve",
]

Declared = TypeVar("Declared", bound=Callable[..., Any])


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
class Catalog:
    """Everything declared under one folder, by name."""

    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]


def models() -> dict[str, ModelEntry]:
    """Every model of the zoo itself by its name. Read once per process."""
    return _zoo().models


def all_models() -> dict[str, ModelEntry]:
    """Every model that has a name: the zoo's, those of installed packages, torchvision's."""
    return {**_zoo().models, **_installed().models, **_torchvision()}


def datasets() -> dict[str, DatasetEntry]:
    """Every dataset by its name, of the zoo and of installed packages. Read once per process."""
    return {**_zoo().datasets, **_installed().datasets}


def problems() -> list[str]:
    """What is wrong with the models that installed packages bring, a sentence each."""
    return _installed().problems


@functools.cache
def zoo_folders() -> tuple[Path, ...]:
    """Where the files of the zoo are."""
    here = Path(__file__).parent
    return here, here / "datasets"


def find_model(name: str) -> ModelEntry:
    """The model of that name, or the one that a reference such as `net.py:Net` names.

    Raises:
        UnknownName: there is none; the message holds the nearest name.
        UsageError: the file is not there or cannot be used.
    """
    if reference := Reference.parse(name):
        return own_model(_content(reference.file), reference)
    # Asking all installed packages takes longer than reading the zoo.
    entry = _zoo().models.get(name) or _torchvision().get(name) or _installed().models.get(name)
    if entry is None:
        raise UnknownName("model", name, all_models(), hint="; ".join(["`dljobs models` lists them", *problems()]))
    return entry


def find_dataset(name: str) -> DatasetEntry:
    """The dataset of that name, or the one that a reference such as `data.py:make_data` names.

    Raises:
        UnknownName: there is none; the message holds the nearest name.
        UsageError: the file is not there or cannot be used.
    """
    if reference := Reference.parse(name):
        return own_dataset(_content(reference.file), reference)
    entry = _zoo().datasets.get(name) or _installed().datasets.get(name)
    if entry is None:
        raise UnknownName("dataset", name, datasets(), hint="; ".join(problems()))
    return entry


def own_model(source: bytes, reference: Reference) -> ModelEntry:
    """The model in a file with this content.

    Raises:
        UsageError: the file has no such name, or what it says of it cannot be used.
    """
    with _as_usage():
        declaration = read_own(source, reference.file, reference.symbol, "model")
        entry = model_entry(declaration, f"{reference.file}:{declaration.symbol}")
    return replace(entry, name=f"{reference.file.name}:{declaration.symbol}", collection="own")


def own_dataset(source: bytes, reference: Reference) -> DatasetEntry:
    """The dataset in a file with this content; raises as `own_model`."""
    with _as_usage():
        declaration = read_own(source, reference.file, reference.symbol, "dataset")
        entry = dataset_entry(declaration, f"{reference.file}:{declaration.symbol}")
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
                catalog.models[declaration.name] = model_entry(declaration, target)
            else:
                catalog.datasets[declaration.name] = dataset_entry(declaration, target)
    return Catalog(dict(sorted(catalog.models.items())), dict(sorted(catalog.datasets.items())))


@functools.cache
def _installed() -> Installed:
    from .installed import read_installed

    return read_installed({**_torchvision(), **_zoo().models}, _zoo().datasets)


@functools.cache
def _torchvision() -> dict[str, ModelEntry]:
    from .torchvision_table import read_table

    return read_table()


def _zoo() -> Catalog:
    # A file that is new shows in its folder; one that was edited is read by the next process, as its code is.
    return _read_zoo(tuple(folder.stat().st_mtime_ns for folder in zoo_folders()))


@functools.lru_cache(maxsize=1)
def _read_zoo(_changed_at: tuple[int, ...]) -> Catalog:
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
