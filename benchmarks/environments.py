"""Environments of peers that dljobs itself does not need: made when the first benchmark asks, gone with the last."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

from .benchmark import BenchmarkError, Sitting
from .processes import last_lines

RAY = ("ray[default,train]",)  # as one environment for its jobs and its training

_TIMEOUT_S = 300.0
_COMPLETE = "complete"


class NotInstallable(Exception):
    """The peer cannot be had here; the message says why."""


def make_environment(sitting: Sitting, name: str, packages: Sequence[str], *, borrows: bool = True) -> str:
    """The Python of an environment that holds these packages.

    Args:
        name: of the environment; who asks for the same once more gets the same.
        borrows: what is installed here can be imported there, too: all peers compute with the same torch, and nothing
            large is downloaded again. Without it the peer has only what it brings along, as its users have it.

    Raises:
        NotInstallable: pip failed, mostly for want of a package index; or this is a smoke test, which installs nothing.
    """
    if sitting.is_smoke:
        raise NotInstallable("a smoke test installs nothing")
    folder = sitting.environments / name
    python = str(folder / "bin" / "python")
    if (folder / _COMPLETE).exists():
        return python
    sitting.say(f"installing {' and '.join(packages)}")
    venv.create(folder, symlinks=True)
    if borrows:
        own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(own) / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    quietly = ("--quiet", "--disable-pip-version-check", "--retries", "1", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", "--python", python, "install", *quietly, *packages]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NotInstallable(f"pip was not done after {_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise NotInstallable(last_lines(done.stderr).rsplit("\n", 1)[-1] or f"pip ended with status {done.returncode}")
    (folder / _COMPLETE).touch()
    return python


@contextlib.contextmanager
def optional(peer: str, notes: list[str]) -> Iterator[None]:
    """A block without which the others are measured all the same: where it fails, a note says why `peer` is missing."""
    try:
        yield
    except (NotInstallable, BenchmarkError) as error:
        notes.append(f"{peer} was left out: {str(error).rsplit(chr(10), 1)[-1]}.")


def this_python() -> str:
    """The interpreter that runs the benchmarks, in its own environment."""
    return sys.executable
