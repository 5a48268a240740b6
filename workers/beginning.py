"""Where a run begins: the first of the checkpoints it may continue from that is whole.

It walks back over corrupt ones and says so. Which ones there are is `continuation.py`'s; the trainer reads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dljobs.errors import CorruptArtifact, NotFound
from dljobs.service.artifacts import ArtifactStore
from dljobs.service.database import Database
from dljobs.service.statements import Row


def fetch_checkpoint(
    database: Database, job: Row, candidates: Sequence[Row], target: Path, say: Callable[[str], None]
) -> Row | None:
    """Write a checkpoint to `target`; returns its row, or None for a job that begins at its first step.

    Args:
        candidates: in the order in which they are tried.
        say: adds a line to the run's log.

    Raises:
        CorruptArtifact: the job is to continue another one, of which nothing is left.
    """
    for row in candidates:
        try:
            ArtifactStore(database).fetch(row["id"], target, durable=False)
        except (CorruptArtifact, NotFound) as error:
            say(f"{error}; going back to an earlier checkpoint")
            continue
        whose = "" if row["job_id"] == job["id"] else f"job {row['job_id']}, "
        say(f"resuming from {row['name']} of {whose}run {row['run_number']}")
        return row
    if (other := job["resumed_from_job_id"]) is not None:
        raise CorruptArtifact(f"no checkpoint of job {other} that this job could continue from is whole any more")
    return None
