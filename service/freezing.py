"""Freezing: a file of one's own, and what lies beside it, as they are at the moment of `submit`.

It owns which files go with a job. Whatever is edited afterwards changes nothing, because the copy is what runs. It
reads the disk once and imports nothing; what a file declares is the catalog's to say.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dljobs.errors import UsageError
from dljobs.models.references import NEVER_TAKEN, Reference

from .source_archive import MAX_BYTES, check_limits, digest_of, pack

# Pickles run code when they are opened, and caches belong to one machine.
LEFT_OUT = {".pyc", ".pyo", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}


@dataclass(frozen=True)
class Frozen:
    """The copy of some files, and which of them is meant."""

    archive: bytes
    digest: str
    main: str  # its name in the archive
    content: bytes  # of the main file
    left_out: tuple[str, ...] = ()

    def name(self, symbol: str) -> str:
        """How a spec calls a class or function of the main file."""
        return f"{self.main}:{symbol}"


def freeze(reference: Reference, folder: Path | None) -> Frozen:
    """Read the referenced file and, where a folder is given, all that is in it.

    Args:
        reference: the file; a relative path begins in the working folder.
        folder: the file's own, one above it, or one that lies beside the file.

    Raises:
        UsageError: no such file or folder, a link that leaves it, too much of it, or a neighbour that the
            file imports and that would be missing.
    """
    file = Path(os.path.abspath(reference.file.expanduser()))  # noqa: PTH100 (resolve() would follow links)
    content = _read(file, reference.file)
    root, files = file.parent, {file.name: content}
    left_out: list[str] = []
    if folder is not None:
        whole = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100
        if not whole.is_dir():
            raise UsageError(f"there is no folder {folder}", "--with takes the folder that goes with the file")
        root = _common_root(file, whole, folder)
        found, left_out = _read_folder(whole, folder)
        inside = whole.relative_to(root)
        files = {(inside / name).as_posix(): each for name, each in found.items()}
        files[file.relative_to(root).as_posix()] = content
    main = file.relative_to(root).as_posix()
    _check_neighbours(content, file, root, set(files), reference.file)
    archive = pack(files)
    return Frozen(archive, digest_of(archive), main, content, tuple(left_out))


def _common_root(file: Path, whole: Path, given: Path) -> Path:
    if file.is_relative_to(whole):
        return whole
    if whole.is_relative_to(file.parent):
        return file.parent
    raise UsageError(f"--with {given} is neither a folder around {file.name} nor one beside it")


def _read(file: Path, shown: Path) -> bytes:
    try:
        size = file.stat().st_size
        check_limits(1, size, str(shown))
        return file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {shown}") from None
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror}") from error


def _read_folder(whole: Path, shown: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files of the folder by relative name, and the names of those that do not go with a job."""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    num_bytes = 0
    for path in _walk(whole):
        name = path.relative_to(whole).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to(whole.resolve()):
            raise UsageError(
                f"{shown / name} is a link to {path.readlink()}, outside of the folder",
                "copy the file into it",
            )
        if path.suffix in LEFT_OUT or not path.is_file():
            left_out.append(name)
            continue
        num_bytes += path.stat().st_size
        if num_bytes > MAX_BYTES:
            largest = max(_walk(whole), key=lambda each: each.stat().st_size if each.is_file() else 0)
            check_limits(0, num_bytes, f"the files of {shown} (the largest is {largest.relative_to(whole)})")
        files[name] = _read(path, shown / name)
        check_limits(len(files), num_bytes, f"the files of {shown}")
    return files, left_out


def _walk(whole: Path) -> Iterator[Path]:
    """Every file and link, in order; without hidden ones, caches and virtual environments."""
    for folder, names, files in os.walk(whole):
        here = Path(folder)
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = sorted(
            name
            for name in names
            if name[0] != "." and name not in ("__pycache__", *links) and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted([*files, *links]) if name[0] != "." and not name.endswith(".pyc"))


def _check_neighbours(content: bytes, file: Path, root: Path, names: set[str], shown: Path) -> None:
    """Find an import that works here and would not work in the copy."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # the catalog says it better, with the line
    for line, bases, module in _imports(tree, file, root):
        for base in bases:
            candidates = [base / f"{module}.py", base / module / "__init__.py"]
            present = next((each for each in candidates if each.is_file() and each != file), None)
            if present is None:
                continue
            if not present.is_relative_to(root) or present.relative_to(root).as_posix() not in names:
                beside = base / module if present.name == "__init__.py" else base
                raise UsageError(
                    f"{shown}:{line} imports {module}, which lies beside it and would not go with the job",
                    hint=f"freeze it too: --with {_shown(beside)}",
                )


def _imports(tree: ast.Module, file: Path, root: Path) -> Iterator[tuple[int, tuple[Path, ...], str]]:
    """Of each import: line, the folders where a neighbour of that name would be, and the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[min(node.level, len(file.parents)) - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, (base,), name.split(".")[0]) for name in names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            tops = {name.split(".")[0] for name in names} - NEVER_TAKEN
            yield from ((node.lineno, (file.parent, root), top) for top in sorted(tops))


def _shown(folder: Path) -> str:
    """The folder as a user would type it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
