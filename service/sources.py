"""The sources of jobs: archives of users' own files in the database, each once, by its digest.

One is stored in the transaction that inserts its first job, and is as permanent as the jobs that name it: any of them
may be retried, evaluated or exported again, and no job is ever deleted. So there is none that nobody needs.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from dljobs.errors import NotFound

from .clock import now
from .tables import sources

if TYPE_CHECKING:
    from .freezing import Frozen


def keep(connection: Connection, frozen: Frozen) -> None:
    """Store the archive, unless it is there already."""
    if connection.execute(select(sources.c.digest).where(sources.c.digest == frozen.digest)).scalar():
        return
    values = {"digest": frozen.digest, "archive": frozen.archive, "size_bytes": len(frozen.archive)}
    # Only on Postgres: another client has just stored the very same bytes.
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(sources).values(created_at=now(), **values))


def fetch(connection: Connection, digest: str) -> bytes:
    """The archive of that digest.

    Raises:
        NotFound: there is none.
    """
    archive = connection.execute(select(sources.c.archive).where(sources.c.digest == digest)).scalar()
    if archive is None:
        raise NotFound(f"the database has no source {digest[:12]}")
    return bytes(archive)
