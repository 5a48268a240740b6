"""The errors a user can meet, as one tree, and the exit codes of the command line.

    DljobsError                 1    anything dljobs itself reports
    ├── UsageError              2    a value or option that cannot be right
    │   └── UnknownName         2    a name nobody knows; the nearest known one comes first
    ├── NotFound              102    no such job, run, artifact
    ├── NotFinished           101    a job that goes on after its client stopped waiting
    ├── Unreachable             1    Redis or the database does not answer
    ├── NotAllowed              1    the database does not let this user do it
    ├── SchemaMismatch          1    the database speaks another version of dljobs
    ├── DataError               1    a dataset that cannot be had or read
    ├── CorruptArtifact         1    stored bytes whose digest does not match
    ├── StorageFull             1    no room left for an artifact
    │   └── DatabaseFull        1    the database has no room
    └── StaleToken              1    a write by someone who no longer holds the lease

A leaf: it imports the standard library only, so that every folder may raise these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What `dljobs` returns to the shell; part of the documented interface."""

    OK = 0
    ERROR = 1
    USAGE = 2
    JOB_FAILED = 100
    NOT_FINISHED = 101
    NOT_FOUND = 102
    CANCELLED = 103
    INFRASTRUCTURE_FAILED = 104
    TIME_LIMIT = 105


class DljobsError(Exception):
    """Something a user should read: what failed in one sentence, and what to do next."""

    exit_code: ExitCode = ExitCode.ERROR

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DljobsError):
    """A value the user gave cannot be right."""

    exit_code = ExitCode.USAGE


class UnknownName(UsageError):
    """A name that is in no list; says the nearest one that is."""

    def __init__(self, what: str, given: str, valid: Iterable[str], hint: str = "") -> None:
        self.valid = sorted(valid)
        near = nearest(given, self.valid)
        listed = ", ".join(self.valid[:30]) + (", …" if len(self.valid) > 30 else "")
        suggestion = f"did you mean {near!r}?" if near else f"known: {listed}" if listed else "none is known"
        super().__init__(f"unknown {what} {given!r}: {suggestion}", hint)
        self.nearest = near


class NotFound(DljobsError):
    """No row with that id."""

    exit_code = ExitCode.NOT_FOUND


class NotFinished(DljobsError):
    """The client stopped waiting, by a timeout or by Ctrl-C; the job goes on."""

    exit_code = ExitCode.NOT_FINISHED


class Unreachable(DljobsError):
    """A server that does not answer; the message names it without its password."""


class NotAllowed(DljobsError):
    """The database knows us, and does not let us do this."""


class SchemaMismatch(DljobsError):
    """The database's schema is older or newer than this dljobs; the hint names the command."""


class DataError(DljobsError):
    """A dataset cannot be had or read; the hint says where to put which files."""


class CorruptArtifact(DljobsError):
    """Stored bytes do not match their digest."""


class StorageFull(DljobsError):
    """The disk or the database has no room; nothing half-written was kept."""


class DatabaseFull(StorageFull):
    """The database has no room."""


# While the database is like this, a worker keeps what it has to write, and tries again.
OUTAGES = (Unreachable, NotAllowed, DatabaseFull)


class StaleToken(DljobsError):
    """A write carried a lease token that is no longer the run's: nothing was changed."""


def nearest(given: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to `given`, or None if nothing is close enough to be a typing error."""
    matches = difflib.get_close_matches(given, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None
