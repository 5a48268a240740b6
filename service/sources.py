"""The sources of jobs: archives of users' own files in the database, each once, by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from dljobs.errors import NotFound

from .clock import now
from .database import Database
from .source_archive import extract
from .spec import JobSpec
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


def extract_all(database: Database, spec: JobSpec, folder: Path, given: Sequence[Frozen] = ()) -> None:
    """Put the frozen files that a spec names where `spec.model_at(folder)` and `spec.data_at(folder)` look.

    Args:
        given: archives that are not in the database yet.

    Raises:
        NotFound, CorruptArtifact: an archive is gone or not what it was.
    """
    known = {frozen.digest: frozen.archive for frozen in given}
    for digest in spec.source_digests:
        archive = known.get(digest)
        if archive is None:
            with database.read() as connection:
                archive = fetch(connection, digest)
        extract(archive, digest, folder)
