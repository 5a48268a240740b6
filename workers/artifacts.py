"""The artifacts that rank 0 leaves in the run's folder: written whole by one background thread, then announced.

The training waits only for the copy to host memory, and for the file before this one if the disk is slower than the
run. It knows neither when an artifact is due nor what is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dljobs.errors import StorageFull

from .channel import EventWriter
from .narration import say


class ArtifactWriter:
    """Writes one artifact at a time, in the order they come, and tells the supervisor of each that is whole."""

    def __init__(self, folder: Path, channel: EventWriter) -> None:
        self._folder = folder
        self._channel = channel
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="artifacts")
        self._last: Future[None] | None = None

    def write(self, save: Callable[[Path], None], event: dict[str, Any], *, must: bool = False) -> None:
        """Save an artifact in the background and announce it.

        Args:
            save: writes the whole file at the path it is given; raises StorageFull where there is no room.
            event: the fields of the `artifact` event, less its path.
            must: a full disk is an error of the run, which the next `write` or `flush` raises. Otherwise the artifact
                is dropped with a loud line in the log, and training goes on to the next one.
        """
        self.flush()
        self._last = self._thread.submit(self._save, self._folder / f"{event['name']}.safetensors", save, must, event)

    def flush(self) -> None:
        """Wait for the artifact in work. Raises what its writing raised."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def settle(self) -> None:
        """Wait for the artifact in work, which is good whatever failed since; its own failure no longer matters."""
        if self._last is not None:
            self._last.exception()

    def _save(self, path: Path, save: Callable[[Path], None], must: bool, event: dict[str, Any]) -> None:
        try:
            save(path)
        except StorageFull as error:
            if must:
                raise
            say(f"WARNING: {event['kind']} {event['name']} was dropped: {error.message}. Training goes on.")
            return
        self._channel.write("artifact", path=str(path), **event)
