"""The path that a user gave for data: it must be there on the machine that trains."""

from __future__ import annotations

import platform
from pathlib import Path

from dljobs.errors import DataError, UsageError


def given_path(name: str, text: str, *, is_folder: bool) -> Path:
    """The path of dataset `name`.

    Raises:
        UsageError: none was given.
        DataError: this machine has no such folder or file.
    """
    if not text:
        raise UsageError(f"dataset {name} needs a path", f"write --data {name}:PATH")
    path = Path(text).expanduser()
    kind = "folder" if is_folder else "file"
    if path.is_dir() if is_folder else path.is_file():
        return path
    if path.exists():
        raise DataError(f"{path} is no {kind}, and {name} reads a {kind}")
    raise DataError(
        f"the machine {platform.node()} has no {kind} {path}",
        hint="put it there, or give a path that every worker has, such as one on shared storage",
    )
