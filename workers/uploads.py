"""Uploads: whole files of a run's folder become artifacts in the background, and old ones make room.

One thread a run, so that artifacts appear in the order in which they were written. The file is deleted once its row is
complete; a failed upload is said in the log, and matters at the end only if nothing newer could be stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import RowMapping

from dljobs.errors import DljobsError, StaleToken, Unreachable
from dljobs.service.artifacts import ArtifactStore, Description, list_artifacts
from dljobs.service.database import Database
from dljobs.service.runs import RunKey
from dljobs.service.spec import JobSpec
from dljobs.service.weights import best_of

from .channel import Event

KEPT_CHECKPOINTS = 2
# While a run's state_dicts are this small together, `keep_every=0` keeps them all.
SMALL_BYTES = 64 * 1024 * 1024
RETRY_AFTER_S = 2.0


class Uploads:
    """The background uploads of one run."""

    def __init__(self, database: Database, key: RunKey, job_id: int, spec: JobSpec, say: Callable[[str], None]) -> None:
        self._database = database
        self._store = ArtifactStore(database)
        self._key = key
        self._job_id = job_id
        self._spec = spec
        self._say = say
        self._abandoned = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"uploads-{key.run_id}")
        self._failed: dict[str, str] = {}  # kind -> why its newest artifact could not be stored
        self._last: Future[None] | None = None

    def add(self, event: Event) -> None:
        """Queue the file that an `artifact` event announces."""
        self._last = self._pool.submit(self._upload, event)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was added is done."""
        return self._last is None or self._last.done()

    @property
    def missing(self) -> str | None:
        """Why the newest weights or result of the run are not stored, or None if they are."""
        return self._failed.get("state_dict") or self._failed.get("evaluation")

    def abandon(self) -> None:
        """Give up on what is still queued: the run is no longer ours."""
        self._abandoned.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Wait for the thread to end."""
        self._pool.shutdown(wait=True)

    def _upload(self, event: Event) -> None:
        path = Path(event["path"])
        what = Description(
            kind=event["kind"],
            name=event["name"],
            step=event["step"],
            epoch=event["epoch"],
            metrics=event.get("metrics") or {},
            best=bool(event.get("best")),
        )
        while not self._abandoned.is_set():
            try:
                self._store.put(self._key, what, path)
                self._retain(what.kind)
                self._failed.pop(what.kind, None)
                path.unlink(missing_ok=True)
                return
            except StaleToken:
                self._abandoned.set()
            except Unreachable:
                time.sleep(RETRY_AFTER_S)  # the file is safe where it is
            except (DljobsError, OSError) as error:
                self._failed[what.kind] = f"{what.kind} {what.name} could not be stored: {error}"
                self._say(self._failed[what.kind])
                return

    def _retain(self, kind: str) -> None:
        """Drop the artifacts of this run that nobody will ask for any more."""
        with self._database.read() as connection:
            stored = list_artifacts(connection, self._job_id, kind=kind)
        mine = [row for row in stored if row["run_id"] == self._key.run_id]
        if kind == "checkpoint":
            obsolete = mine[:-KEPT_CHECKPOINTS]
        elif kind == "state_dict":
            obsolete = self._obsolete_state_dicts(mine)
        else:
            obsolete = []
        self._store.drop(self._key, [row["id"] for row in obsolete])

    def _obsolete_state_dicts(self, mine: list[RowMapping]) -> list[RowMapping]:
        every = self._spec.training.keep_every
        if not mine or (every == 0 and sum(row["size_bytes"] for row in mine) <= SMALL_BYTES):
            return []
        kept = {mine[-1]["id"], best_of(mine, self._spec)["id"]}
        return [row for row in mine if row["id"] not in kept and not (every and row["epoch"] % every == 0)]
