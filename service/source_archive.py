"""The archive of a job's own files: the same bytes for the same files, and read without trusting it.

It owns the format (an uncompressed tar of plain files, by name, without owners or times) and its limits. It does not
know where files come from (`freezing.py`) or where archives are kept (`sources.py`).
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dljobs.errors import CorruptArtifact, UsageError

MAX_BYTES = 10 * 1024 * 1024
MAX_FILES = 2000
MAX_NAME = 200


def digest_of(archive: bytes) -> str:
    """What an archive is known by."""
    return hashlib.sha256(archive).hexdigest()


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files, by their names relative to the folder they are in.

    Raises:
        UsageError: too many, too large together, or a name that no archive of ours may hold.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            if not _is_safe(name):
                raise UsageError(f"{name!r} is no name for a file of a job: it is too long, or not plain text")
            member = tarfile.TarInfo(name)  # no owner, no time, mode 0644
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    check_limits(len(files), sum(map(len, files.values())), "they")
    return buffer.getvalue()


def check_limits(num_files: int, num_bytes: int, what: str) -> None:
    """Refuse what is more than source code.

    Raises:
        UsageError: it is.
    """
    if num_files <= MAX_FILES and num_bytes <= MAX_BYTES:
        return
    size = f"{num_bytes / 2**20:.1f} MiB" if num_bytes > MAX_BYTES else f"more than {MAX_FILES} files"
    raise UsageError(
        f"{what} hold {size}: the files that go with a job may be {MAX_FILES} of {MAX_BYTES // 2**20} MiB together",
        hint="keep data out of that folder, and give their path: --data csv:PATH or imagefolder:PATH",
    )


def unpack(archive: bytes, digest: str) -> dict[str, bytes]:
    """The files of an archive.

    Raises:
        CorruptArtifact: it does not match the digest, or holds anything but plain files inside its own folder.
    """
    if digest_of(archive) != digest:
        raise CorruptArtifact(f"the stored source {digest[:12]} does not match its digest")
    files: dict[str, bytes] = {}
    num_bytes = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                num_bytes += member.size
                # Before anything of it is read: a sparse file may claim any size.
                is_bad = member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not _is_safe(member.name)
                if is_bad or member.name in files or len(files) >= MAX_FILES or num_bytes > MAX_BYTES:
                    raise CorruptArtifact(f"the stored source {digest[:12]} holds {member.name[:80]!r}: refused")
                content = tar.extractfile(member)
                files[member.name] = content.read() if content else b""
    except CorruptArtifact:
        raise
    except Exception as error:  # tarfile raises half a dozen kinds at bytes that are no archive
        raise CorruptArtifact(f"the stored source {digest[:12]} is no archive: {error}") from error
    for name in files:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            raise CorruptArtifact(f"the stored source {digest[:12]} holds {name[:80]!r} inside a file")
    return files


def extract(archive: bytes, digest: str, folder: Path) -> None:
    """Write the files of an archive into a folder that does not exist yet.

    Raises:
        CorruptArtifact: as `unpack`; nothing was written.
        FileExistsError: the folder exists.
    """
    files = unpack(archive, digest)
    folder.mkdir(mode=0o700, parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The folder is new, so nothing can be in the way, not even a link that was put there meanwhile.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _is_safe(name: str) -> bool:
    """Whether the name stays in its folder on every system."""
    parts = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and len(name) <= MAX_NAME
    return is_plain and all(part not in ("", ".", "..") for part in parts)
