"""Opening what a command works with: the database, the doorbell, and the jobs that a user named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dljobs.service.database import Database
    from dljobs.service.doorbell import Doorbell
    from dljobs.service.settings import Settings


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


def doorbell_of(settings: Settings) -> Doorbell:
    """The doorbell; it logs nothing, because commands say themselves what a lost ring means for the user."""
    import logging

    from dljobs.service.doorbell import Doorbell

    logging.getLogger("dljobs").addHandler(logging.NullHandler())
    return Doorbell(settings)


def resolve_ids(database: Database, texts: Sequence[str]) -> list[int]:
    """The job ids that a user meant: numbers, `@`, `@1`; each once.

    Raises:
        NotFound, UsageError: as `jobs.resolve_id`.
    """
    from dljobs.service.jobs import resolve_id

    with database.read() as connection:
        return list(dict.fromkeys(resolve_id(connection, text) for text in texts))
