"""Opening what a command works with: the database, the doorbell, and the jobs that a user named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .output import say

if TYPE_CHECKING:
    from dljobs.service.database import Database
    from dljobs.service.doorbell import Doorbell
    from dljobs.service.names import Target
    from dljobs.service.settings import Settings
    from dljobs.service.statements import AnyDatabase
    from dljobs.service.submission import Submitted

T = TypeVar("T")


@contextmanager
def database_of(settings: Settings) -> Iterator[Database]:
    """The database, if its schema is ours; closed at the end.

    Raises:
        Unreachable, SchemaMismatch: it cannot be used; the message says why.
    """
    from dljobs.service.schema import open_checked

    database = open_checked(settings)
    try:
        yield database
    finally:
        database.close()


def answer(settings: Settings, ask: Callable[[AnyDatabase], T]) -> T:
    """What `ask` finds: over the driver alone, and over SQLAlchemy only if it asks for more than text.

    Raises:
        Unreachable, SchemaMismatch: as `database_of`.
    """
    from dljobs.service.schema import open_checked_plain
    from dljobs.service.statements import NeedsSqlalchemy

    try:
        with closing(open_checked_plain(settings)) as database:
            return ask(database)
    except NeedsSqlalchemy:
        with database_of(settings) as whole:
            return ask(whole)


def doorbell_of(settings: Settings) -> Doorbell:
    """The doorbell; it logs nothing, because commands say themselves what a lost ring means for the user."""
    import logging

    from dljobs.service.doorbell import Doorbell

    logging.getLogger("dljobs").addHandler(logging.NullHandler())
    return Doorbell(settings)


def warn(settings: Settings, submitted: Submitted) -> list[str]:
    """Say what was odd about a submission and what stands in the way of its job; returns the same."""
    from dljobs.service.submission import find_obstacles

    warnings = list(submitted.warnings)
    if submitted.created:
        job_id = submitted.job_id
        obstacles = answer(settings, lambda database: find_obstacles(database, settings, job_id))
        warnings += [f"job {job_id} waits: {words}" for words in obstacles]
    for warning in warnings:
        say(f"warning: {warning}")
    return warnings


def resolve_ids(database: Database, texts: Sequence[str]) -> list[int]:
    """The jobs that a user meant, one with each word: 12, @, s3.7; each once.

    Raises:
        NotFound, UsageError: as `names.resolve_job`.
    """
    from dljobs.service.names import resolve_job

    with database.read() as connection:
        return list(dict.fromkeys(resolve_job(connection, text) for text in texts))


def resolve_targets(database: Database, texts: Sequence[str]) -> list[Target]:
    """The jobs and sets that a user meant: 12, @, s3.7, s3; each once.

    Raises:
        NotFound, UsageError: as `names.resolve`.
    """
    from dljobs.service.names import resolve_all

    with database.read() as connection:
        return resolve_all(connection, texts)


def list_asked(database: Database, targets: Sequence[Target], *, lease_s: float, with_members: bool) -> list[Any]:
    """Jobs as `list_jobs` has them; of each set one line of `status`, or all its jobs."""
    from dljobs.service.reports import list_jobs
    from dljobs.service.set_reports import list_sets

    job_ids = members_of(database, [each for each in targets if with_members or not each.is_set])
    found = list_jobs(database, job_ids, lease_s=lease_s)
    if not with_members:
        found += list_sets(database, [each.id for each in targets if each.is_set])
    return found


def members_of(database: Database, targets: Sequence[Target]) -> list[int]:
    """The jobs that are meant, those of sets in their order."""
    from dljobs.service.names import member_ids

    with database.read() as connection:
        return member_ids(connection, targets)


def resolve_members(database: Database, texts: Sequence[str]) -> list[int]:
    """As `resolve_targets`, with the jobs of a set in its place."""
    return members_of(database, resolve_targets(database, texts))
