from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dljobs.errors import DljobsError, StorageFull
from dljobs.workers.folder import RunRequest, write_whole
from tests.small_jobs import small_request


def test_a_request_comes_back_equal(tmp_path: Path) -> None:
    request = small_request(tmp_path / "run", world_size=2, resume="/some/where", lr=0.25)
    assert RunRequest.read(request.write()) == request


def test_the_run_is_private(tmp_path: Path) -> None:
    folder = small_request(tmp_path / "run").write().parent
    assert folder.stat().st_mode & 0o77 == 0


def test_a_request_of_another_version_is_refused(tmp_path: Path) -> None:
    path = small_request(tmp_path).write()
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(DljobsError, match="version 99"):
        RunRequest.read(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "artifact"
    write_whole(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail) if failing == "fsync" else monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageFull, match="artifact"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "artifact", b"new")
