"""The sources of jobs: archives of users' own files in the database, each once, by its digest.

One is stored in the transaction that inserts its first job, and is as permanent as the jobs that name it: any of them
may be retried, evaluated or exported again, and no job is ever deleted. So there is none that nobody needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dljobs.errors import NotFound

from .statements import AnyConnection, run, value

if TYPE_CHECKING:
    from .freezing import Frozen


def keep(connection: AnyConnection, frozen: Frozen) -> None:
    """Store the archive, unless it is there already."""
    if value(connection, "SELECT size_bytes FROM sources WHERE digest = :digest", digest=frozen.digest) is not None:
        return
    # A conflict there is only on Postgres: another client has just stored the very same bytes.
    run(
        connection,
        "INSERT INTO sources (digest, archive, size_bytes, created_at) VALUES (:digest, :archive, :size_bytes, NOW) "
        "ON CONFLICT (digest) DO NOTHING",
        digest=frozen.digest,
        archive=frozen.archive,
        size_bytes=len(frozen.archive),
    )


def fetch(connection: AnyConnection, digest: str) -> bytes:
    """The archive of that digest.

    Raises:
        NotFound: there is none.
    """
    archive = value(connection, "SELECT archive FROM sources WHERE digest = :digest", digest=digest)
    if archive is None:
        raise NotFound(f"the database has no source {digest[:12]}")
    return bytes(archive)
