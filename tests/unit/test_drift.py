"""Whether what a forkserver has loaded is still what is on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dljobs.workers.drift import MAX_GROWTH_BYTES, Drift, stamps_of


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in ("lenet.py", "data.py")]
    for file in files:
        file.write_text("a = 1\n")
    return files


def drift_of(files: list[Path]) -> Drift:
    return Drift(os.getpid(), map(str, files), {})


def test_an_edit_counts_once_it_is_over(files: list[Path]) -> None:
    drift = drift_of(files)
    assert [drift.look(), drift.look()] == ["", ""]
    files[0].write_text("a = 22\n")
    assert drift.look() == "", "it may be going on"
    files[0].write_text("a = 333\n")
    assert drift.look() == ""
    assert drift.look() == f"{files[0]} changed on disk"


def test_a_file_that_is_replaced_or_removed_has_changed(files: list[Path]) -> None:
    drift = drift_of(files)
    other = files[0].with_suffix(".new")
    other.write_text("a = 2\n")
    times = files[0].stat().st_atime_ns, files[0].stat().st_mtime_ns
    os.utime(other, ns=times)
    other.replace(files[0])
    files[1].unlink()
    assert drift.look() == ""
    assert drift.look() == f"{files[0]} and 1 more changed on disk"


def test_an_edit_that_is_taken_back_is_none(files: list[Path]) -> None:
    drift = drift_of(files)
    times = files[0].stat().st_atime_ns, files[0].stat().st_mtime_ns
    files[0].write_text("a = 2\n")
    assert drift.look() == ""
    files[0].write_text("a = 1\n")
    os.utime(files[0], ns=times)
    assert [drift.look(), drift.look()] == ["", ""]


def test_an_edit_during_the_import_is_a_drift(files: list[Path]) -> None:
    before = stamps_of(map(str, files))
    files[0].write_text("a = 22\n")
    drift = Drift(os.getpid(), map(str, files), before)
    assert drift.look() == ""
    assert "lenet.py changed" in drift.look()


def test_what_was_refused_is_named_again_only_when_it_changes(files: list[Path], tmp_path: Path) -> None:
    drift, helper = drift_of(files), tmp_path / "helper.py"
    helper.write_text("broken(\n")
    files[0].write_text("import helper\n")
    assert [bool(drift.look()), bool(drift.look())] == [False, True]
    drift.refuse([str(helper)])
    assert [bool(drift.look()), bool(drift.look())] == [False, True], "it may have changed while it was read"
    drift.refuse([str(helper)])
    assert [drift.look(), drift.look()] == ["", ""]
    helper.write_text("whole = 1\n")
    assert [bool(drift.look()), bool(drift.look())] == [False, True]


def test_growth_counts_where_forks_pay_for_it(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    size = [300 << 20]
    monkeypatch.setattr("dljobs.workers.drift._private_bytes", lambda _pid: size[0])
    drift = drift_of(files)
    size[0] += MAX_GROWTH_BYTES
    assert drift.look() == ""
    size[0] += 1 << 20
    assert "grown by 65 MiB" in drift.look()
