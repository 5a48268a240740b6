"""Models and data of installed packages: those that register an entry point in the group `dljobs.models`.

It owns finding the files behind the entry points and reading their declarations. Like the zoo's they are read and never
imported, so that a client needs none of what they need. A package that is broken, or that takes a name that is in use,
is passed over with the reason: it must not keep anybody from training a LeNet.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path

from dljobs.errors import DljobsError

from .declarations import read_declarations
from .entries import DatasetEntry, ModelEntry, dataset_entry, model_entry

GROUP = "dljobs.models"


@dataclass(frozen=True)
class Installed:
    """What the packages bring, by name, and why some of it is not to be had."""

    models: dict[str, ModelEntry] = field(default_factory=dict)
    datasets: dict[str, DatasetEntry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_installed(taken_models: Mapping[str, object], taken_datasets: Mapping[str, object]) -> Installed:
    """Read every registered module, or every module of a registered package.

    Args:
        taken_models: names that the zoo has already.
        taken_datasets: likewise.
    """
    found = Installed()
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: (point.value, point.name)):
        owner = point.dist.name if point.dist is not None else point.name
        files = list(_files(point.module))
        if not files:
            found.problems.append(f"package {owner} registers {point.value!r}, and there is no source of that module")
        for module, file in files:
            taken = {**taken_models, **found.models}, {**taken_datasets, **found.datasets}
            try:
                _read(found, module, file, *taken)
            except (DljobsError, OSError) as error:
                found.problems.append(f"package {owner}: {error}")
    return found


def _read(
    found: Installed,
    module: str,
    file: Path,
    taken_models: Mapping[str, object],
    taken_datasets: Mapping[str, object],
) -> None:
    for declaration in read_declarations(file):
        taken = taken_models if declaration.kind == "model" else taken_datasets
        if declaration.name in taken:
            raise declaration.error("has a name that is taken already: choose another")
        target = f"{module}:{declaration.symbol}"
        if declaration.kind == "model":
            found.models[declaration.name] = replace(model_entry(declaration, target), collection="installed")
        else:
            found.datasets[declaration.name] = dataset_entry(declaration, target)


def _files(module: str) -> Iterator[tuple[str, Path]]:
    """The module's file, or a package's files, each with the name it is imported by."""
    spec = _find(module)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None and spec.origin.endswith(".py"):
            yield module, Path(spec.origin)
        return
    for place in spec.submodule_search_locations:
        for path in sorted(Path(place).rglob("*.py")):
            parts = path.relative_to(place).with_suffix("").parts
            yield ".".join((module, *(parts[:-1] if parts[-1] == "__init__" else parts))), path


def _find(module: str) -> ModuleSpec | None:
    """Where a module is. `importlib.util.find_spec` would import the packages that it is in."""
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for number in range(len(parts)):
        places = spec.submodule_search_locations if spec is not None else None
        if number and places is None:
            return None
        name = ".".join(parts[: number + 1])
        found = (finder.find_spec(name, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return None
    return spec
