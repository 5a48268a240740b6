"""Data from an address: fetched once a node into the data folder, with their digest, and unpacked.

What is fetched appears as one folder, whole or not at all: the file (or what was in the archive) beside a record of
where it came from. Of several processes one fetches and the others wait. It does not know what is in the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dljobs.errors import DataError, DljobsError, StorageFull
from dljobs.models.announcement import announce
from dljobs.models.location import Location

from .download import WEB, Progress, copy, opened
from .prepared import locked, storage_errors
from .unpacking import unpack

FOLDER = "fetched"
RECORD = "record.json"
FILE = "file"
CONTENT = "content"
RETRY_AFTER_S = (1.0, 5.0)  # a connection that was lost is tried again
FINAL = (FileNotFoundError, PermissionError, ImportError, ValueError)


@dataclass(frozen=True)
class Fetched:
    """What was fetched: the file, or the folder that was in the archive; `sha256` is that of the file or archive."""

    path: Path
    sha256: str


def fetched(root: Path, location: Location, *, is_folder: bool) -> Fetched:
    """What is at a location, from the data folder `root` if it is there already.

    It stays as it was first fetched, whatever becomes of the original; another digest asked for is another location.

    Args:
        is_folder: an archive is expected, and unpacked.

    Raises:
        DataError: it cannot be had, has another digest, or is no archive that can be unpacked.
        StorageFull: no room; nothing of it is kept.
    """
    kind = "folder" if is_folder else "file"
    place = root / FOLDER / f"{location.key}-{kind}"
    known = _read(place)
    if known is None:
        with locked(place):
            known = _read(place)  # another process may have fetched it while this one waited
            if known is None:
                _fetch(location, place, is_folder=is_folder)
                known = _read(place)
    assert known is not None, "what was just written can be read"
    return known


def _fetch(location: Location, place: Path, *, is_folder: bool) -> None:
    part = place.with_name(f".{place.name}.part")
    try:
        with storage_errors(place.parent):
            for left_over in (part, place):
                shutil.rmtree(left_over, ignore_errors=True)
            part.mkdir(parents=True)
            file, content = part / FILE, part / CONTENT
            sha256 = _download(location, file)
            if is_folder:
                unpack(file, location.name, content)
                file.unlink()
                file = _top(content)
            inner = str(file.relative_to(part))
            record = {"url": location.shown, "sha256": sha256, "path": inner, "fetched_at": time.time()}
            (part / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            _sync(part)
            part.rename(place)
            _sync(place.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    announce(f"fetched {location.shown}, sha256 {sha256}")


def _download(location: Location, target: Path) -> str:
    """Write the file at the location and return its digest; a lost connection is tried again."""
    for wait_s in (*RETRY_AFTER_S, None):
        try:
            sha256 = _transfer(location, target)
            break
        except DljobsError:
            raise
        except Exception as error:  # each protocol's library has errors of its own
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            if isinstance(error, urllib.error.HTTPError):
                reason = str(error)
            is_final = isinstance(error, FINAL) or (isinstance(error, urllib.error.HTTPError) and error.code < 500)
            if wait_s is None or is_final:
                raise DataError(f"{location.shown} cannot be fetched: {reason}", _hint(location, error)) from error
            announce(f"fetching {location.name} again in {wait_s:g} s: {reason}")
            time.sleep(wait_s)
    if location.sha256 not in (None, sha256):
        raise DataError(
            f"{location.shown} has the sha256 {sha256}, and not {location.sha256} as the job says",
            "it has changed there, or it was meant to be another file",
        )
    return sha256


def _transfer(location: Location, target: Path) -> str:
    digest = hashlib.sha256()
    with _source(location) as (stream, size), storage_errors(target.parent):
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise StorageFull(
                f"{location.shown} has {size:,} bytes, and the data folder has room for {free:,}",
                "free some space there, or keep datasets elsewhere with DLJOBS_DATA_DIR",
            )
        progress = Progress(location.name, size)
        with target.open("wb") as file:
            copy(stream, file, digest, progress)
    if size and progress.done != size:
        raise http.client.IncompleteRead(b"", size - progress.done)
    progress.finish()
    return digest.hexdigest()


@contextlib.contextmanager
def _source(location: Location) -> Iterator[tuple[BinaryIO, int]]:
    """What is there as a stream, and its size, 0 if nobody says: from the web, or from what fsspec knows."""
    if location.scheme in WEB:
        with opened(location.url) as (stream, size):
            yield stream, size
        return
    import fsspec.core

    system: Any
    system, path = fsspec.core.url_to_fs(location.url)
    size = int(system.size(path) or 0)
    with system.open(path, "rb") as stream:
        yield stream, size


def _hint(location: Location, error: Exception) -> str:
    if isinstance(error, ImportError):
        extra = "'dljobs[s3]'" if location.scheme == "s3" else f"what fsspec needs for {location.scheme}://"
        return f"on each machine that trains: pip install {extra}"
    return "try the address on the machine that trains, or copy the data there and give a path"


def _top(content: Path) -> Path:
    """The folder that was packed: an archive often has all it holds in one folder."""
    entries = [path for path in content.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    if not entries:
        raise DataError("the archive is empty")
    is_wrapped = len(entries) == 1 and entries[0].is_dir() and entries[0].name not in ("train", "test")
    return entries[0] if is_wrapped else content


def _read(place: Path) -> Fetched | None:
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        found = Fetched(place / record["path"], record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.path.exists() else None


def _sync(folder: Path) -> None:
    """Have the disk take all that was written: at once, not file by file, of which there may be a million."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
