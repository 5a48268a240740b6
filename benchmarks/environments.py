"""Environments of peers that dljobs itself does not need: made for a sitting, gone with it.

An environment borrows the packages of this one, so that all peers compute with the same torch, and nothing large is
downloaded again.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from .processes import last_lines

_TIMEOUT_S = 300.0


class NotInstallable(Exception):
    """The peer cannot be had here; the message says why."""


def make_environment(folder: Path, packages: Sequence[str]) -> str:
    """The Python of a new environment that holds these packages.

    Raises:
        NotInstallable: pip failed, mostly for want of a package index.
    """
    venv.create(folder, with_pip=True, symlinks=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(own) / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", *packages]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NotInstallable(f"pip was not done after {_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise NotInstallable(last_lines(done.stderr).rsplit("\n", 1)[-1] or f"pip ended with status {done.returncode}")
    return python


def this_python() -> str:
    """The interpreter that runs the benchmarks, in its own environment."""
    return sys.executable
