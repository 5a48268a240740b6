"""The worker's folder for sockets and the like: named after the worker, so that one that was killed leaves none behind.

multiprocessing would make a `pymp-…` of its own in TMPDIR for whatever the ranks start, and nobody could ever tell
whose it was. It knows no run: what belongs to a run lies in the run's folder.
"""

from __future__ import annotations

import multiprocessing.process
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dljobs.service.process_mark import ProcessMark

_PREFIX = "dljobs-worker-"
_NAME = re.compile(rf"{_PREFIX}(?P<pid>\d+)-(?P<ticks>\d+)")


def take_temporary() -> Path:
    """Make this process's folder the one that multiprocessing uses, here and in the ranks.

    Folders of workers that are gone are removed: they were killed.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        if _is_ownerless(left):
            shutil.rmtree(left, ignore_errors=True)
    # Short: a socket's path may have 108 characters, and TMPDIR may be deep.
    path = parent / f"{_PREFIX}{os.getpid()}-{_ticks(os.getpid())}"
    path.mkdir(mode=0o700, exist_ok=True)
    use_temporary(str(path))
    return path


def use_temporary(path: str | None) -> None:
    """Have multiprocessing put what it needs in there; None: in a folder of its own."""
    _config()["tempdir"] = path


def used_temporary() -> str | None:
    """The folder that multiprocessing was given, if it was."""
    return _config().get("tempdir")


def _config() -> dict[str, Any]:
    config: dict[str, Any] = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    return config


def _is_ownerless(path: Path) -> bool:
    try:
        is_ours = path.lstat().st_uid == os.getuid()
    except OSError:
        return False
    named = _NAME.fullmatch(path.name)
    return is_ours and named is not None and _ticks(int(named["pid"])) != named["ticks"]


def _ticks(pid: int) -> str:
    """When the kernel started a process, in digits that no other process with this pid has; empty if there is none."""
    mark = ProcessMark.of(pid)
    return "" if mark is None else re.sub(r"\D", "", mark.born.rpartition(":")[2])
