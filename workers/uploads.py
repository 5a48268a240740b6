"""Uploads: whole files of a run's folder become artifacts in the background, and old ones make room.

One thread a run, so that artifacts appear in the order in which they were written. The file is deleted once its row is
complete. A checkpoint that still waits when a newer one is there is passed over: while the database is slow or down, no
more than two lie on the disk. A failed upload is said in the log, and matters at the end only if nothing newer could be
stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from dljobs.errors import DljobsError, StaleToken, Unreachable
from dljobs.service.artifacts import ArtifactStore, Description, list_artifacts, list_wanted
from dljobs.service.database import Database
from dljobs.service.retention import is_kept_for_good, obsolete
from dljobs.service.runs import RunKey, answer_checkpoint_request
from dljobs.service.spec import JobSpec

from .channel import Event
from .outages import RETRY_AFTER_S, outlast


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
        self._newest_checkpoint = ""

    def add(self, event: Event) -> None:
        """Queue the file that an `artifact` event announces."""
        if event["kind"] == "checkpoint":
            self._newest_checkpoint = event["name"]
        self._last = self._pool.submit(self._upload, event)

    def drop(self, event: Event) -> None:
        """A checkpoint had no room on the disk, which the ranks have said: whoever asked for it waits no longer."""
        self._last = self._pool.submit(self._answer, event)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was added is done."""
        return self._last is None or self._last.done()

    def wait(self, timeout_s: float) -> None:
        """Wait until everything that was added is done, at most so long."""
        if self._last is not None:
            wait([self._last], timeout_s)

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
                if not self._is_passed_over(event):
                    self._store.put(self._key, what, path)
                    self._retain(what.kind)
                    self._answer(event)
                    self._failed.pop(what.kind, None)
                break
            except StaleToken:
                self._abandoned.set()
            except Unreachable:
                time.sleep(RETRY_AFTER_S)  # the file is safe where it is
            except (DljobsError, OSError) as error:
                self._failed[what.kind] = f"{what.kind} {what.name} could not be stored: {error}"
                self._say(self._failed[what.kind])
                break
        path.unlink(missing_ok=True)

    def _is_passed_over(self, event: Event) -> bool:
        if event["kind"] != "checkpoint" or event["name"] == self._newest_checkpoint:
            return False
        every, ends_epoch = self._spec.training.keep_checkpoints_every, bool(event.get("metrics"))
        return not is_kept_for_good(event["epoch"], every, best=bool(event.get("best")), ends_epoch=ends_epoch)

    def _answer(self, event: Event) -> None:
        """Let whoever asked for a checkpoint know that there is one, or that there can be none."""
        if event.get("answers"):
            with suppress(StaleToken):
                outlast(lambda: self._write_answer(event), f"run {self._key.run_id}", check=self._refuse_if_abandoned)

    def _write_answer(self, event: Event) -> None:
        with self._database.write() as connection:
            answer_checkpoint_request(connection, self._key, event["answers"])

    def _refuse_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise StaleToken(f"run {self._key.run_id} is no longer ours")

    def _retain(self, kind: str) -> None:
        """Drop what nobody will ask for any more."""
        with self._database.read() as connection:
            stored = list_artifacts(connection, self._job_id, kind=kind)
            wanted = list_wanted(connection)
        self._store.drop(self._key, obsolete(stored, kind, self._spec, wanted))
