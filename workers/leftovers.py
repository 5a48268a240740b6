"""Leftovers: the folders of runs that a worker had when it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from dljobs.service.database import Database
from dljobs.service.parts import list_parts_of_worker

from .folder import folder_name


def remove_leftovers(database: Database, folders: Path, worker_id: int) -> int:
    """Remove every run's folder that is this worker's; for its start, when it has no run yet. Returns how many.

    All that was written there and is not in the database is lost with the worker's death: its ranks died with it, and
    the job goes on from its last stored checkpoint. Folders of other workers, who may share the home, are left alone.
    """
    found = [path for path in folders.glob("*-*") if path.name.partition("-")[0].isdigit()]
    if not found:
        return 0
    with database.read() as connection:
        mine = list_parts_of_worker(connection, worker_id, {int(path.name.partition("-")[0]) for path in found})
    names = {folder_name(row["run_id"], row["token"], row["node_rank"], row["num_parts"]) for row in mine}
    dead = [path for path in found if path.name in names]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
    return len(dead)
