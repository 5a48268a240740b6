"""Drift: whether what a forkserver has loaded is still what a new one would load, and whether it has grown.

It compares the files of all modules that were imported, by size, time and inode, as they were before the import began:
an edit in the middle of it is a drift, too. It starts and ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

# Memory that came after the huge pages were made (`huge_pages.py`) is in small ones: 64 MiB of them, 16,000 entries of
# the page table, make a fork and its end some 1 ms dearer, of 2.
MAX_GROWTH_BYTES = 64 << 20

Stamp = tuple[int, int, int] | None  # None: there is no such file


def stamps_of(files: Iterable[str]) -> dict[str, Stamp]:
    """What tells that a file was changed, or replaced by another."""
    return {file: _stamp(file) for file in files}


class Drift:
    """Of one forkserver. For one thread."""

    def __init__(self, pid: int, files: Iterable[str], before: Mapping[str, Stamp]) -> None:
        """`before`: stamps that are older than the import, as far as there are any."""
        self._pid = pid
        self.loaded = {file: before.get(file, stamp) for file, stamp in stamps_of(files).items()}
        self._refused = self._seen = dict(self.loaded)
        self._memory = _private_bytes(pid)

    def look(self) -> str:
        """Why there should be a new forkserver, or nothing.

        Changed files count from the second look that finds them as they are: an upgrade writes for some seconds.
        """
        seen, self._seen = self._seen, stamps_of(self.loaded)
        if self._seen != self.loaded and self._seen == seen and self._seen != self._refused:
            changed = [file for file, stamp in self._seen.items() if stamp != self.loaded[file]]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return f"{changed[0]}{more} changed on disk"
        grown = _private_bytes(self._pid) - self._memory
        if grown > MAX_GROWTH_BYTES:
            return f"it has grown by {grown >> 20} MiB, which each fork pays for"
        return ""

    @property
    def seen(self) -> dict[str, Stamp]:
        """The files as the last look found them."""
        return self._seen

    def refuse(self, files: Iterable[str]) -> None:
        """What the last look found cannot be loaded: say nothing of it until it or one of these files changes.

        Nobody knows what a new one of these was when it was read, so it counts as changed, once.
        """
        for file in files:
            self.loaded.setdefault(file, None)
            self._seen.setdefault(file, None)
        self._refused = self._seen
        self._memory = _private_bytes(self._pid)


def _stamp(file: str) -> Stamp:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _private_bytes(pid: int) -> int:
    """Memory that is the process's own and no file's; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(line.split()[1]) << 10
