"""Tensors: a safetensors file as numpy arrays, read from wherever ranges of bytes can be had, without torch.

It owns the file format's header and what its types are to numpy. It does not know where the bytes lie: an artifact in
the store (`artifacts.py`) is read as well as a file on disk. Format: github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dljobs.errors import CorruptArtifact, DljobsError, UnknownName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What torch calls each type, numpy's code for it, and its bytes. numpy has no bfloat16: see `_to_array`.
TYPES = {
    "BOOL": ("bool", "?", 1),
    "U8": ("uint8", "u1", 1),
    "I8": ("int8", "i1", 1),
    "U16": ("uint16", "<u2", 2),
    "I16": ("int16", "<i2", 2),
    "U32": ("uint32", "<u4", 4),
    "I32": ("int32", "<i4", 4),
    "U64": ("uint64", "<u8", 8),
    "I64": ("int64", "<i8", 8),
    "F16": ("float16", "<f2", 2),
    "BF16": ("bfloat16", "<u2", 2),
    "F32": ("float32", "<f4", 4),
    "F64": ("float64", "<f8", 8),
}
# In the metadata: the names in the order of the layers, as a JSON list. No parameter is called so: names have no dot
# at their beginning.
ORDER_KEY = ".order"
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library allows
BLOCK = 1024 * 1024  # numbers that are in memory at once


class Source(Protocol):
    """Bytes that can be read in part."""

    size: int

    def read(self, start: int, stop: int) -> bytes: ...


class FileSource:
    """A file on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to, not including, `stop`."""
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it; its bytes are [start, stop) of the file."""

    name: str
    type: str  # a key of TYPES, or a newer type that is not known here
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> str:
        """As torch calls it: float32."""
        return TYPES[self.type][0] if self.type in TYPES else self.type.lower()

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file. Only its header is read at first; a tensor's bytes are read when it is asked for.

    Raises:
        CorruptArtifact: it is no whole safetensors file.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        header_bytes = int.from_bytes(source.read(0, min(8, source.size)), "little")
        if source.size < 8 or header_bytes > min(MAX_HEADER_BYTES, source.size - 8):
            raise CorruptArtifact("this is no safetensors file: its header does not fit into it")
        try:
            header = json.loads(source.read(8, 8 + header_bytes))
            metadata: dict[str, str] = header.pop("__metadata__", {})
            infos = [_info(name, entry, 8 + header_bytes, source.size) for name, entry in header.items()]
            places = {str(name): place for place, name in enumerate(json.loads(metadata.get(ORDER_KEY, "[]")))}
            aliases = {name: str(kept) for name, kept in metadata.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptArtifact(f"this is no safetensors file: {error}") from None
        infos.sort(key=lambda info: (places.get(info.name, len(places)), info.start, info.name))
        self.tensors = {info.name: info for info in infos}
        # Shared tensors are stored once, under one of their names.
        self.aliases = {name: kept for name, kept in aliases.items() if kept in self.tensors}

    def find(self, name: str) -> TensorInfo:
        """The tensor of that name; an alias finds the one that it is.

        Raises:
            UnknownName: there is none; the message holds the nearest name.
        """
        found = self.tensors.get(self.aliases.get(name, name))
        if found is None:
            raise UnknownName("tensor", name, [*self.tensors, *self.aliases])
        return found

    def read(self, info: TensorInfo) -> NDArray[Any]:
        """The tensor as an array of its shape. bfloat16 becomes float32, which holds each of its values exactly."""
        return _to_array(info, self._source.read(info.start, info.stop)).reshape(info.shape)

    def blocks(self, info: TensorInfo) -> Iterator[NDArray[Any]]:
        """The tensor's numbers in flat arrays of `BLOCK` numbers (the last is shorter): it need not fit into memory."""
        block_bytes = BLOCK * (TYPES[info.type][2] if info.type in TYPES else 1)
        for start in range(info.start, info.stop, block_bytes):
            yield _to_array(info, self._source.read(start, min(start + block_bytes, info.stop)))


def _info(name: str, entry: dict[str, Any], data_start: int, size: int) -> TensorInfo:
    shape = tuple(int(length) for length in entry["shape"])
    start, stop = (int(offset) + data_start for offset in entry["data_offsets"])
    info = TensorInfo(name, str(entry["dtype"]), shape, start, stop)
    fits = info.type not in TYPES or stop - start == info.count * TYPES[info.type][2]
    if not (data_start <= start <= stop <= size and fits and all(length >= 0 for length in shape)):
        raise ValueError(f"tensor {name!r} does not lie where its header says")
    return info


def _to_array(info: TensorInfo, content: bytes) -> NDArray[Any]:
    import numpy as np

    if info.type not in TYPES:
        raise DljobsError(f"tensor {info.name!r} is of the type {info.dtype}, which numpy does not know")
    array: NDArray[np.generic] = np.frombuffer(content, TYPES[info.type][1])
    if info.type == "BF16":
        # The upper half of a float32.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array
