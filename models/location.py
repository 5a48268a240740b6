"""Locations: addresses that data are fetched from, told apart from paths: `https://host/images.tar.gz#sha256=…`.

It owns how they are written and shown. Standard library only, because clients check them before a job is made.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dljobs.errors import UsageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Location:
    """An address, and the digest that what is there must have, if the user gave one."""

    url: str
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Location | None:
        """The location that a text is; None if it is a path.

        Raises:
            UsageError: it is an address that cannot be right.
        """
        if not _SCHEME.match(text):
            return None
        url, mark, fragment = text.partition("#")
        given = _FRAGMENT.fullmatch(fragment)
        if mark and given is None:
            raise UsageError(f"{fragment[:80]!r} behind # is no digest", "write #sha256= and its 64 digits")
        location = cls(url, given[1].lower() if given else None)
        host = urlsplit(url).netloc
        if "@" in host:
            raise UsageError(
                f"{location.shown} was given with a name or password, which all could read in the job",
                "set it on the machines that train, as the protocol's own library wants it",
            )
        if not (host or location.scheme == "file") or location.name in ("", ".", "..") or "\0" in location.name:
            raise UsageError(f"{location.shown} is no address of a file", "write https://HOST/FILE, or file:///FILE")
        return location

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme.lower()

    @property
    def name(self) -> str:
        """Of the file: the last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def shown(self) -> str:
        """The address without what may be secret in it: a password, or a signature behind the question mark."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def key(self) -> str:
        """A short name of its own, which what was fetched is kept under."""
        return hashlib.sha256(f"{self.url}#{self.sha256 or ''}".encode()).hexdigest()[:16]
