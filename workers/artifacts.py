"""The artifacts that rank 0 leaves in the run's folder: written whole by one background thread, then announced.

The training waits only for the copy to host memory; where the disk is slower than the run, for the artifact before the
last one. It knows neither when an artifact is due nor what is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from dljobs.errors import StorageFull

from .channel import EventWriter
from .narration import say

_ALIVE_EVERY_S = 1.0
_MAX_WAITING = 1  # beside the one in work: an epoch's end leaves two, and host memory holds a copy of each


class ArtifactWriter:
    """Writes one artifact at a time, in the order they come, and tells the supervisor of each that is whole."""

    def __init__(self, folder: Path, channel: EventWriter) -> None:
        self._folder = folder
        self._channel = channel
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="artifacts")
        self._pending: deque[tuple[str, Future[None]]] = deque()

    def is_writing(self, kind: str) -> bool:
        """Whether an artifact of this kind is not on the disk yet."""
        return any(each == kind and not future.done() for each, future in list(self._pending))

    def write(self, save: Callable[[Path], None], event: dict[str, Any], *, must: bool = False) -> None:
        """Save an artifact in the background and announce it.

        Args:
            save: writes the whole file at the path it is given; raises StorageFull where there is no room.
            event: the fields of the `artifact` event, less its path.
            must: a full disk is an error of the run, which the next `write` or `flush` raises. Otherwise the artifact
                is dropped with a loud line in the log, and training goes on to the next one.
        """
        self._wait(_MAX_WAITING)
        path = self._folder / f"{event['name']}.safetensors"
        self._pending.append((event["kind"], self._thread.submit(self._save, path, save, must, event)))

    def flush(self) -> None:
        """Wait for the artifacts in work. Raises what writing them raised."""
        self._wait(0)

    def settle(self) -> None:
        """Wait for the artifacts in work, which are good whatever failed since; their own failures no longer matter."""
        while self._pending:
            self._pending.popleft()[1].exception()

    def _wait(self, most: int) -> None:
        while len(self._pending) > most or (self._pending and self._pending[0][1].done()):
            _kind, future = self._pending[0]
            while not wait([future], _ALIVE_EVERY_S).done:
                self._channel.write("alive")  # a slow disk is no hung rank
            self._pending.popleft()
            future.result()

    def _save(self, path: Path, save: Callable[[Path], None], must: bool, event: dict[str, Any]) -> None:
        try:
            save(path)
        except StorageFull as error:
            if must:
                raise
            say(f"WARNING: {event['kind']} {event['name']} was dropped: {error.message}. Training goes on.")
            self._channel.write("dropped", **event)
            return
        self._channel.write("artifact", path=str(path), **event)
