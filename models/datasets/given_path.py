"""The path that a user gave for data, on the machine that trains; what is at an address is fetched to it first."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from dljobs.errors import DataError, UsageError
from dljobs.models.data import Origin
from dljobs.models.location import Location

from .remote import fetched


@dataclass(frozen=True)
class Given:
    """Where the data lie; `origin`: where they were fetched from."""

    path: Path
    origin: Origin | None = None


def given_path(name: str, text: str, root: Path, *, is_folder: bool) -> Given:
    """What dataset `name` is read from, a path or an address.

    Raises:
        UsageError: none was given.
        DataError: this machine has no such folder or file, or it cannot be fetched.
        StorageFull: no room for it in the data folder `root`.
    """
    if not text:
        raise UsageError(f"dataset {name} needs a path", f"write --data {name}:PATH")
    if (location := Location.parse(text)) is not None:
        found = fetched(root, location, is_folder=is_folder)
        return Given(found.path, Origin(location.shown, found.sha256))
    path = Path(text).expanduser()
    kind = "folder" if is_folder else "file"
    if path.is_dir() if is_folder else path.is_file():
        return Given(path)
    if path.exists():
        raise DataError(f"{path} is no {kind}, and {name} reads a {kind}")
    raise DataError(
        f"the machine {platform.node()} has no {kind} {path}",
        hint="put it there, or give a path that every worker has, such as one on shared storage",
    )
