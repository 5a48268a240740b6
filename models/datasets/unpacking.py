"""Unpacking of archives from elsewhere: files and folders below one folder, and nothing else.

An archive is not trusted: it chooses neither where it is written nor what else is reached from there.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dljobs.errors import DataError
from dljobs.models.announcement import announce

from .prepared import storage_errors

ANNOUNCE_EVERY_S = 2.0
# What the readers of archives raise; zipfile a NotImplementedError where a header asks for a compression or a version
# of the format that it does not know, as a damaged one may.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def unpack(archive: Path, name: str, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, or a zip archive, into a new folder; `name` is the archive's in words.

    Raises:
        DataError: it is neither, it is damaged, or it holds a link, a device, or a path that leads out of the folder.
        StorageFull: no room.
    """
    with storage_errors(folder):
        folder.mkdir()
        try:
            if tarfile.is_tarfile(archive):
                unpacked = _from_tar(archive, name, folder)
            elif zipfile.is_zipfile(archive):
                unpacked = _from_zip(archive, name, folder)
            else:
                raise DataError(f"{name} is no archive", "pack the folder as .tar.gz, .tar or .zip")
            _count(name, unpacked)
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the file system; those of a decompressor have no number
            raise DataError(f"the archive {name} is damaged: {error}") from error


def _from_tar(archive: Path, name: str, folder: Path) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        for member in tar:
            _check(name, member.name, is_plain=member.isfile() or member.isdir())
            tar.extract(member, folder, filter="data")
            yield member.name


def _from_zip(archive: Path, name: str, folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not packed on Unix
            _check(name, info.filename, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if info.flag_bits & 1:
                raise DataError(f"the archive {name} is encrypted", "pack it without a password")
            packed.extract(info, folder)
            yield info.filename


def _check(archive: str, name: str, *, is_plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"the archive {archive} holds the path {name[:200]!r}, which leads out of it: not unpacked")
    if not is_plain:
        raise DataError(
            f"the archive {archive} holds {name[:200]!r}, which is neither a file nor a folder: not unpacked",
            "pack it without links: tar --dereference",
        )


def _count(name: str, unpacked: Iterator[str]) -> None:
    announce(f"unpacking {name}")
    told_at = time.monotonic()
    for number, _ in enumerate(unpacked, start=1):
        if time.monotonic() - told_at >= ANNOUNCE_EVERY_S:
            told_at = time.monotonic()
            announce(f"unpacking {name}: {number:,} files", printed=False)
