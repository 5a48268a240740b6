"""Connecting: what the drivers are told when they connect, and where a file of SQLite may lie.

It imports no driver; `database.py` and `plain.py` connect by the same rules.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dljobs.errors import Unreachable

from .settings import Settings

BUSY_TIMEOUT_S = 30
SQLITE_PRAGMAS = (
    # It only takes effect while the file is empty. Artifact chunks are written faster into larger pages, small
    # rows slower: 16 KiB keeps most of both.
    "page_size=16384",
    "journal_mode=WAL",
    "synchronous=FULL",  # an id that `submit` has printed survives a power cut
    "foreign_keys=ON",
    # SQLite before 3.51.3 may corrupt a WAL that two connections checkpoint at once: one worker does it (sweep.py).
    "wal_autocheckpoint=0",
)
# Keepalives: without them a half-open connection blocks a worker for two hours.
# They are not sent while something is on its way: that is given up after tcp_user_timeout (ms).
POSTGRES_OPTIONS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs"}


def find_file(settings: Settings, path: Path, *, create: bool = False) -> Path:
    """The path of a database's file, if it is there and its locks can be trusted.

    Args:
        create: make it if there is none.

    Raises:
        Unreachable: there is no file yet, or none can be there, or it lies on a network file system.
    """
    file_system = _file_system_of(path)
    if file_system in NETWORK_FILE_SYSTEMS:
        raise Unreachable(
            f"{path} is on a network file system ({file_system}), where SQLite's locks cannot be trusted",
            hint="set DLJOBS_HOME to a local disk, or DLJOBS_DATABASE_URL to a Postgres database",
        )
    try:
        exists = _make_file(path) if create else path.exists()
    except OSError as error:
        words = f"there can be no database at {path}: {error.strerror}"
        raise Unreachable(words, "set DLJOBS_HOME to a folder of your own") from None
    if not exists:
        hint = "start the service with `dljobs up`" if settings.embedded_database else "run `dljobs db upgrade`"
        raise Unreachable(f"there is no database at {path} yet", hint)
    return path


def _make_file(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # before SQLite would create it world-readable
    return True


def _file_system_of(path: Path) -> str:
    """The file system's type by the longest mount point that holds `path`; "" where /proc/mounts does not exist."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    target, best, kind = str(path.absolute()), "", ""
    for line in mounts.read_text().splitlines():
        _device, mount_point, file_system, *_ = line.split()
        inside = target == mount_point or target.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, file_system
    return kind
