"""Reading an artifact: all of it as a stream, or any range, with each blob verified before its bytes are handed out.

It knows where the blobs of one artifact begin; how they came to be, and what the bytes mean, is not its affair.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sqlalchemy import select

from dljobs.errors import CorruptArtifact, NotFound

from . import blobs
from .ahead import ahead
from .cutting import BLOB_BYTES
from .database import Database
from .tables import artifacts

# Loaded at a time, while what was loaded before is in use: more would be in memory that is new to the process.
_LOAD_BYTES = BLOB_BYTES


@dataclass(frozen=True)
class Part:
    """A blob as a part of an artifact."""

    digest: str
    size: int  # in bytes


def digest_of_parts(parts: Sequence[Part]) -> str:
    """What an artifact is known by: the digest of its blobs' digests."""
    return blobs.digest_of("".join(part.digest for part in parts).encode())


class ArtifactReader:
    """The bytes of one artifact: only the blobs that hold them are loaded.

    Args:
        row: its row.
        parts: its blobs, in order.
        loaded: the bytes of all its blobs by digest, not verified, where they are here already; otherwise empty.

    Raises:
        CorruptArtifact: they are not the blobs it was stored with.
    """

    def __init__(
        self, database: Database, row: Mapping[str, Any], parts: list[Part], loaded: Mapping[str, memoryview]
    ) -> None:
        self.size: int = row["size_bytes"]
        self._database = database
        self._row = row
        self._parts = parts
        self._loaded = loaded
        self._starts = list(accumulate((part.size for part in parts), initial=0))  # and the end of the last one
        # Small tensors share a blob and are read one after another: the last one is kept.
        self._kept: tuple[int, memoryview] | None = None
        if digest_of_parts(parts) != row["digest"] or self._starts[-1] != self.size:
            raise self._corrupt("the list of its blobs does not match its digest")

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to, not including, `stop`.

        Raises:
            NotFound: the artifact was dropped meanwhile.
            CorruptArtifact: a blob is missing, or does not match its digest.
        """
        numbers = self._numbers(start, stop)
        if len(numbers) != 1:
            return b"".join(self.chunks(start, stop))
        [number] = numbers
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._verified(number, self._load(numbers)))
        first = self._starts[number]
        return bytes(self._kept[1][start - first : stop - first])

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes from `start` up to `stop` or the end in chunks of at most `BLOB_BYTES`, loaded ahead by a thread.

        Raises:
            NotFound, CorruptArtifact: as `read`.
        """
        stop = self.size if stop is None else stop
        groups = list(self._groups(self._numbers(start, stop)))
        loads = (self._load(numbers) for numbers in groups)
        # One load is not worth a thread.
        for numbers, found in zip(groups, ahead(loads, 1) if len(groups) > 1 else loads, strict=True):
            for number in numbers:
                first = self._starts[number]
                yield self._verified(number, found)[max(start - first, 0) : stop - first]

    def _numbers(self, start: int, stop: int) -> range:
        """The blobs that hold these bytes."""
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} of {self.size}")
        if start == stop:
            return range(0)
        return range(bisect_right(self._starts, start) - 1, bisect_right(self._starts, stop - 1))

    def _groups(self, numbers: range) -> Iterator[range]:
        """What is loaded at a time: as many neighbours as are `_LOAD_BYTES` together."""
        first = numbers.start
        for number in numbers:
            if self._starts[number + 1] - self._starts[first] > _LOAD_BYTES and number > first:
                yield range(first, number)
                first = number
        if numbers:
            yield range(first, numbers.stop)

    def _load(self, numbers: range) -> Mapping[str, memoryview]:
        if self._loaded:
            return self._loaded
        with self._database.ask() as connection:
            return blobs.load(connection, [self._parts[number].digest for number in numbers])

    def _verified(self, number: int, found: Mapping[str, memoryview]) -> memoryview:
        part = self._parts[number]
        data = found.get(part.digest)
        if data is None:
            self._check_that_it_is_still_there()
            raise self._corrupt(f"blob {number} is missing")
        if len(data) != part.size or blobs.digest_of(data) != part.digest:
            blobs.mark_damaged(self._database, part.digest)
            raise self._corrupt(f"blob {number} does not match its digest")
        return data

    def _check_that_it_is_still_there(self) -> None:
        with self._database.read() as connection:
            if connection.scalar(select(artifacts.c.id).where(artifacts.c.id == self._row["id"])) is None:
                raise NotFound(f"artifact {self._row['id']} ({self._row['name']}) was dropped while it was read")

    def _corrupt(self, what: str) -> CorruptArtifact:
        return CorruptArtifact(
            f"artifact {self._row['id']} ({self._row['name']}) is corrupt: {what}",
            "take another checkpoint: `dljobs artifacts JOB` lists them",
        )
