"""The archive of a job's own files: the same bytes for the same files, and nothing that leaves its folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import CorruptArtifact, UsageError
from dljobs.service import source_archive
from dljobs.service.source_archive import MAX_BYTES, digest_of, extract, pack, unpack

PARTS = st.text(st.characters(whitelist_categories=("L", "N")), min_size=1, max_size=8)
NAMES = st.lists(PARTS, min_size=1, max_size=2).map(lambda parts: "/".join(parts) + ".py")
HOSTILE = st.sampled_from(
    [
        "../x.py",
        "/etc/x.py",
        "a/../../x.py",
        "./x.py",
        "a//x.py",
        "a\\..\\x.py",
        "",
        ".",
        "x\0y",
        "x\ny",
        "n" * 300,
    ]
)


def tar_of(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            member.size = len(content) if member.type == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content) if member.size else None)
    return buffer.getvalue()


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6))
def test_what_is_packed_is_unpacked_and_the_order_does_not_matter(files: dict[str, bytes]) -> None:
    archive = pack(files)
    assert unpack(archive, digest_of(archive)) == files
    assert pack(dict(reversed(files.items()))) == archive


@given(HOSTILE)
def test_a_name_that_leaves_the_folder_is_refused_on_both_sides(name: str) -> None:
    with pytest.raises(UsageError):
        pack({name: b""})
    archive = tar_of(member(name.replace("\0", "\n") or "/"))  # tar ends a name at a NUL
    with pytest.raises(CorruptArtifact):
        unpack(archive, digest_of(archive))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_only_plain_files_are_taken(kind: bytes, tmp_path: Path) -> None:
    archive = tar_of(member("x.py", type=kind, linkname="/etc/passwd"))
    with pytest.raises(CorruptArtifact, match=r"holds 'x\.py': refused"):
        extract(archive, digest_of(archive), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def claims_too_much() -> bytes:
    """A header of a terabyte with nothing behind it."""
    info = member("x.py")
    info.size = 2**40
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024


@pytest.mark.parametrize(
    "make",
    [
        claims_too_much,
        lambda: tar_of(member("x.py"), member("x.py")),
        lambda: tar_of(member("x"), member("x/y.py")),
        lambda: tar_of(*[member(f"{number}.py") for number in range(source_archive.MAX_FILES + 1)]),
    ],
)
def test_hostile_archives_write_nothing(make: Callable[[], bytes], tmp_path: Path) -> None:
    archive = make()
    with pytest.raises(CorruptArtifact):
        extract(archive, digest_of(archive), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_are_refused(noise: bytes) -> None:
    good = pack({"x.py": b"pass\n"})
    for archive in (noise, noise + good, good[: len(noise) % len(good)] + noise):
        try:
            files = unpack(archive, digest_of(archive))
        except CorruptArtifact:
            continue
        assert all(".." not in name.split("/") and not name.startswith("/") for name in files)


def test_a_changed_archive_is_corrupt() -> None:
    archive = pack({"x.py": b"pass\n"})
    with pytest.raises(CorruptArtifact, match="does not match its digest"):
        unpack(archive.replace(b"pass", b"fail"), digest_of(archive))


def test_extracted_files_are_the_owners_alone(tmp_path: Path) -> None:
    archive = pack({"net.py": b"x = 1\n", "blocks/one.py": b""})
    folder = tmp_path / "sources" / digest_of(archive)
    extract(archive, digest_of(archive), folder)
    assert (folder / "net.py").read_bytes() == b"x = 1\n"
    assert (folder / "blocks" / "one.py").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        extract(archive, digest_of(archive), folder)


def test_too_much_is_refused_with_the_limit() -> None:
    with pytest.raises(UsageError, match=r"10\.0 MiB: .* 10 MiB together"):
        pack({"x.py": b"\0" * (MAX_BYTES + 1)})
