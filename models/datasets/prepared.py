"""Files of the data folder that are made once and then only read: whole, digested, by one process at a time.

It owns the lock, the atomic write, and tensor files with their digest. It does not know any dataset.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dljobs.errors import DataError, StorageFull
from dljobs.models.announcement import announce

LOOK_EVERY_S = 0.1
ALIVE_EVERY_S = 10.0
FULL = (errno.ENOSPC, errno.EDQUOT)


def prepared(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the file; where it is missing or damaged, `make` makes them and it is written first.

    Of several processes one makes it and the others wait. Whoever changes what `make` gives, changes the file's name.

    Raises:
        DataError: the folder cannot be written.
        StorageFull: no room for the file; nothing of it is kept.
    """
    tensors = _read(path)
    if tensors is None:
        with locked(path):
            tensors = _read(path)  # another process may have made it while this one waited
            if tensors is None:
                if path.exists():
                    print(f"{path} is damaged and is made anew", flush=True)
                tensors = make()
                with whole_file(path) as file:
                    file.write(save(tensors, metadata={"sha256": _digest(tensors)}))
    return tensors


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a file of the data folder. The system frees it when its holder dies.

    Raises:
        DataError: the folder cannot be made or written.
        StorageFull: no room even for that.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never unlinked: a process that waits on an unlinked file would hold a lock that nobody else sees.
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with storage_errors(path.parent):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _wait_for(descriptor, f"waiting for another process that is preparing {path.name}")
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, words: str) -> None:
    """Lock, and give a sign of life now and then: the other process may be downloading for an hour."""
    announce(words)
    told_at = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_EVERY_S)
            if time.monotonic() - told_at >= ALIVE_EVERY_S:
                told_at = time.monotonic()
                announce(words, printed=False)
        else:
            return


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole at the end of the block, or not at all.

    Only under its lock: the temporary name is fixed, so that what a killed process left is overwritten.

    Raises:
        DataError: the folder cannot be written.
        StorageFull: no room; nothing is kept.
    """
    part = path.with_name(f".{path.name}.part")
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("wb")
    try:
        # In this order, because after a failed write closing fails once more.
        with full_disk(path.parent), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into StorageFull; any other error passes as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(
            f"no room left in the data folder {folder}: {error.strerror}",
            hint="free some space there, or keep datasets elsewhere with DLJOBS_DATA_DIR",
        ) from error


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Also turn every other error of the file system into a DataError that names the folder."""
    try:
        with full_disk(folder):
            yield
    except OSError as error:
        raise DataError(
            f"cannot write in the data folder {folder}: {error.strerror or error}",
            hint="give this user access to it, or keep datasets elsewhere with DLJOBS_DATA_DIR",
        ) from error


def _read(path: Path) -> dict[str, Tensor] | None:
    """The file's tensors, or None unless all of it is there and has the digest it was written with."""
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return None
    return tensors if digest == _digest(tensors) else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
