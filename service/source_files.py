"""Source files: a job's frozen files on their way out of the database, for a run, a child process or the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from dljobs.errors import NotFound, UsageError

from .database import Database
from .jobs import get_job
from .source_archive import extract, unpack
from .sources import fetch
from .spec import JobSpec
from .views import Json

if TYPE_CHECKING:
    from .freezing import Frozen


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
        extract(archive, digest, folder / digest)


def describe_sources(connection: Connection, spec: JobSpec) -> list[Json]:
    """Each archive that a spec names: what it is for, and its files; those of the model first."""
    purposes = {"model": spec.model_source, "data": spec.data_source}
    described = []
    for digest in dict.fromkeys(named for named in purposes.values() if named is not None):
        archive = fetch(connection, digest)
        described.append(
            {
                "digest": digest,
                "used_by": [purpose for purpose, named in purposes.items() if named == digest],
                "files": [
                    {"name": name, "size_bytes": len(content)} for name, content in unpack(archive, digest).items()
                ],
            }
        )
    return described


def export_sources(database: Database, job_id: int, target: Path) -> None:
    """Write the frozen files of a job into a new folder; where model and data have their own, in `model` and `data`.

    Raises:
        NotFound: the job has none, or they are gone.
        UsageError: the folder exists.
        CorruptArtifact: they are not what they were.
    """
    with database.read() as connection:
        spec = JobSpec.from_json(get_job(connection, job_id)["spec_json"])
    if not spec.source_digests:
        raise NotFound(f"job {job_id} brought no files of its own", f"its model {spec.model} is not one of a file")
    if target.exists():
        raise UsageError(f"{target} exists already", "name a folder that does not")
    parts = {"model": spec.model_source, "data": spec.data_source}
    for name, digest in parts.items():
        if digest is not None and (name == "model" or digest != spec.model_source):
            with database.read() as connection:
                archive = fetch(connection, digest)
            extract(archive, digest, target if len(spec.source_digests) == 1 else target / name)
