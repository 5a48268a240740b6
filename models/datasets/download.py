"""One file from the internet into the data folder: checked against its digest, whole or not at all.

It owns the transfer and its progress, as plain lines because output goes to a log. It does not know datasets.
torchvision's own download is not used: it writes under the final name, has no timeout, rewrites one line of a terminal,
and takes a full disk for a reason to try again without https.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from dljobs.errors import DataError, DljobsError
from dljobs.models.announcement import announce

from .prepared import whole_file

CHUNK_BYTES = 256 * 1024
WEB = ("https", "http")
TIMEOUT_S = 30.0  # for connecting and for each read, not for the whole
REPORT_EVERY_S = 2.0
REPORT_EVERY_SHARE = 0.05
ALIVE_EVERY_S = 10.0  # so often whoever listens hears of it, however slow it is


def fetch(name: str, target: Path, urls: Sequence[str], md5: str, hint: str) -> None:
    """Download a file of dataset `name` from the first URL that gives its MD5 digest. Only under the dataset's lock.

    Raises:
        DataError: none did; the message holds each one's reason, and the given hint says what to do instead.
        StorageFull: no room; nothing of it is kept.
    """
    reasons = []
    for url in urls:
        try:
            with whole_file(target) as file:
                _transfer(url, file, target.name, md5)
        except DljobsError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
        else:
            return
    tried = "; ".join(reasons)
    raise DataError(
        f"{name} needs {target.name}, which is not in {target.parent} and cannot be downloaded ({tried})", hint
    )


def is_whole(path: Path, md5: str) -> bool:
    """Whether the file is there with that MD5 digest."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest() == md5
    except OSError:
        return False


def _transfer(url: str, file: BinaryIO, name: str, md5: str) -> None:
    digest = _md5()
    with opened(url) as (stream, size):
        progress = Progress(name, size)
        copy(stream, file, digest, progress)
    # A connection cut short looks like an end: only the digest tells.
    if digest.hexdigest() != md5:
        raise ValueError(
            f"its {progress.done:,} bytes are not the published file (MD5 {digest.hexdigest()}, not {md5})"
        )
    progress.finish()


@contextlib.contextmanager
def opened(url: str) -> Iterator[tuple[BinaryIO, int]]:
    """What is at an address of the web, as a stream, and its size, 0 if the server does not say."""
    if not url.lower().startswith(tuple(f"{scheme}://" for scheme in WEB)):
        raise ValueError("not an http address")
    request = urllib.request.Request(url, headers={"User-Agent": "dljobs"})  # noqa: S310 (checked above)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        yield response, int(response.headers.get("Content-Length") or 0)


def copy(stream: BinaryIO, file: BinaryIO, digest: hashlib._Hash, progress: Progress) -> None:
    """Write a stream to a file, and tell digest and progress of it."""
    while chunk := stream.read(CHUNK_BYTES):
        file.write(chunk)
        digest.update(chunk)
        progress.advance(len(chunk))


class Progress:
    """Lines about a transfer: the first and last, and between them one at most each 2 s and 5%."""

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total  # 0: the server does not say
        self.done = 0
        self._started = self._reported_at = time.monotonic()
        self._reported = 0
        announce(f"downloading {name}" + (f" ({_megabytes(total)})" if total else ""))

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        now = time.monotonic()
        far_enough = self.done - self._reported >= self.total * REPORT_EVERY_SHARE
        silent_s = now - self._reported_at
        if silent_s >= (REPORT_EVERY_S if far_enough else ALIVE_EVERY_S):
            self._reported_at = now
            share = (
                f"{100 * self.done // self.total}% of {_megabytes(self.total)}" if self.total else _megabytes(self.done)
            )
            announce(f"downloading {self.name}: {share}", printed=far_enough)
            if far_enough:
                self._reported = self.done

    def finish(self) -> None:
        announce(f"downloaded {self.name}: {_megabytes(self.done)} in {time.monotonic() - self._started:.1f} s")


def _md5() -> hashlib._Hash:
    # The digests that torchvision publishes; the flag keeps it usable on FIPS systems.
    return hashlib.md5(usedforsecurity=False)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
