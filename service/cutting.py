"""Cutting: where a file is divided into blobs, so that equal tensors in two files become equal blobs.

A safetensors file is cut at its tensors, each of them from its own beginning every `BLOB_BYTES`; small neighbours stay
together, so that a model of a thousand tiny tensors is not a thousand rows. Any other file is cut every `BLOB_BYTES`.
The pieces, one after the other, are the file. It knows neither database nor digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import SEEK_END
from itertools import chain, pairwise, repeat
from typing import BinaryIO

BLOB_BYTES = 4 * 1024 * 1024
# Tensors below this share a blob with their neighbours. Smaller: more rows; larger: more bytes are stored again when
# one of the neighbours has changed. 128 KiB keeps each convolution of a ResNet-18 by itself.
SMALL_BYTES = 128 * 1024
GROUP_BYTES = 1024 * 1024  # at most so much in a blob of small tensors
MAX_HEADER_BYTES = 16 * 1024 * 1024  # of 100,000 tensors; a file with more is cut without regard to them


def cut(file: BinaryIO) -> Iterator[int]:
    """The sizes of a file's pieces in order. None is 0, and together they are its size."""
    rest = file.seek(0, SEEK_END)
    file.seek(0)
    beginning = file.read(8)
    header_bytes = int.from_bytes(beginning, "little")
    if len(beginning) == 8 and header_bytes <= MAX_HEADER_BYTES:
        beginning += file.read(header_bytes)
    for size in chain(_sizes(beginning), repeat(BLOB_BYTES)):
        if not rest:
            return
        yield min(size, rest)
        rest -= min(size, rest)


def _sizes(beginning: bytes) -> Iterator[int]:
    """The sizes of the pieces of a safetensors file, of which these are the first bytes; none if it is another file."""
    try:
        header = json.loads(beginning[8:])
        header.pop("__metadata__", None)
        offsets = {int(offset) for entry in header.values() for offset in entry["data_offsets"]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return  # whatever a rank wrote: it is cut like any other file
    yield from _pieces(len(beginning))
    yield from _together(stop - start for start, stop in pairwise(sorted({0, *offsets})) if start >= 0)


def _together(sizes: Iterable[int]) -> Iterator[int]:
    """The sizes of the pieces that tensors of these sizes are cut into."""
    group = 0
    for size in sizes:
        if group and (size >= SMALL_BYTES or group + size > GROUP_BYTES):
            yield group
            group = 0
        if size >= SMALL_BYTES:
            yield from _pieces(size)
        else:
            group += size
    if group:
        yield group


def _pieces(size: int) -> Iterator[int]:
    yield from repeat(BLOB_BYTES, size // BLOB_BYTES)
    if size % BLOB_BYTES:
        yield size % BLOB_BYTES
