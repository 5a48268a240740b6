"""Huge pages: the memory of a process that is going to be forked often, put together so that a fork has little to copy.

A fork copies the page table, and the child's end takes it apart again: with torch loaded that is 100,000 entries of
4 KiB pages, or 200 of 2 MiB. A page that is written to after the fork is still copied by 4 KiB (Linux 5.8 and later).
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

_SIZE = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1; others refuse it, and forks stay as dear as they are
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 ")


def collapse() -> None:
    """Put all memory of this process that is no file's into huge pages, as far as the system can."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for found in filter(None, map(_ANONYMOUS.match, Path("/proc/self/maps").read_text().splitlines())):
        begin, end = (int(address, 16) for address in found.groups())
        begin, end = -(-begin // _SIZE) * _SIZE, end // _SIZE * _SIZE
        if begin < end:
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_COLLAPSE)
