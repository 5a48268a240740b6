"""Importing code of one's own: a frozen file becomes a module under a private name, and finds its neighbours.

It owns that name and the search for neighbours. Two versions of a file never meet, because each has the name of its
digest; what the file imports by a plain name (`import blocks`) is looked for in its own folder first, as it is for a
script, but never takes the place of the standard library. For ranks and loaders, whose process serves one job.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from dljobs.errors import NotFound, UnknownName

from .references import DIGEST, NEVER_TAKEN, root_of

PRIVATE = "dljobs_own_"


def import_symbol(file: Path, symbol: str) -> Any:
    """The class or function of that name in the file, which is imported once per process.

    Raises:
        NotFound: the file is not there.
        UnknownName: it has no such name once it has run.
        Exception: whatever the file itself raises.
    """
    module = _import_file(file)
    if not hasattr(module, symbol):
        raise UnknownName(f"name in {file.name}:", symbol, [name for name in vars(module) if name[0] != "_"])
    return getattr(module, symbol)


def _import_file(file: Path) -> types.ModuleType:
    file = file.absolute()
    if not file.is_file():
        raise NotFound(f"there is no file {file}")
    root = root_of(file)
    name = _package(root)
    for part in file.relative_to(root).parts[:-1]:
        name = f"{name}.{part}"
        importlib.import_module(name)  # so that relative imports have something to be relative to
    name = f"{name}.{file.stem.replace('.', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, f"{file} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.meta_path.insert(0, _Neighbours([file.parent, root]))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package(root: Path) -> str:
    """The private package whose files are those of the folder."""
    tag = root.name if DIGEST.fullmatch(root.name) else hashlib.sha256(str(root).encode()).hexdigest()
    name = PRIVATE + tag[:16]
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(root)]
        sys.modules[name] = package
    return name


class _Neighbours(MetaPathFinder):
    """Finds top-level names in frozen folders."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a neighbour, or None for everybody else's modules."""
        if path is not None or fullname in NEVER_TAKEN:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, [str(folder) for folder in self.folders])
        # A folder without Python in it is no module: it must not hide an installed one.
        is_bare = spec is not None and spec.loader is None
        if is_bare and not any(any((folder / fullname).glob("*.py")) for folder in self.folders):
            return None
        return spec
