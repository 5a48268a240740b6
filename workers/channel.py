"""The channel between the ranks of a run and their supervisor: events one way, requests the other, both as files.

The event file is also the spool: the supervisor keeps its byte offset in the same transaction as the rows it made of
the events, so an outage of the database loses nothing and repeats nothing. The channel does not interpret what events
say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import write_whole

Event = dict[str, Any]

URGENT = {"first_step", "error", "stopped"}  # somebody may be waiting for these

# What a full disk may hold back in memory, and the longest line a reader takes in.
_MAX_PENDING_BYTES = 4 << 20
MAX_LINE_BYTES = 1 << 20


class EventWriter:
    """Appends the events of one rank to its file; safe to call from several threads.

    An event never stops the training: with no room left on the disk, events wait in memory for the next write.
    """

    def __init__(self, path: Path, bell: Path | None = None) -> None:
        """`bell`: a named pipe, where the supervisor hears of what is urgent; it looks now and then by itself."""
        self._bell = _open_bell(bell)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pending = bytearray()
        self._lock = threading.Lock()

    def write(self, type_: str, **fields: Any) -> None:
        """Append one event with the time of now. Numbers that are not finite become null, as JSON has none."""
        event = {"type": type_, "at": time.time(), **fields}
        line = json.dumps(_finite(event), separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if len(self._pending) + len(line) <= _MAX_PENDING_BYTES:
                self._pending += line
            self._flush()
        if type_ in URGENT:
            self.ring()

    def ring(self) -> None:
        """Have the supervisor look now at what was written, here and in the log."""
        if self._bell is not None:
            with contextlib.suppress(OSError):
                os.write(self._bell, b".")

    def close(self) -> None:
        """Write what still waits, as far as there is room."""
        with self._lock:
            self._flush()
            os.close(self._file)
            if self._bell is not None:
                os.close(self._bell)
                self._bell = None

    def _flush(self) -> None:
        # A short write leaves the rest of the line at the head of the queue, so lines never interleave or repeat.
        with contextlib.suppress(OSError):
            while self._pending:
                del self._pending[: os.write(self._file, self._pending)]


def _open_bell(path: Path | None) -> int | None:
    with contextlib.suppress(OSError):  # there is none, or nobody listens
        return None if path is None else os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def read_events(path: Path, offset: int = 0, max_bytes: int = 4 << 20) -> tuple[list[Event], int]:
    """The whole events from byte `offset` on, and the offset after the last of them.

    Reads at most `max_bytes` at a time: call again until it returns no more. A line that is still being written is left
    for the next call; a line that is no event (or longer than `MAX_LINE_BYTES`) is passed over, since what user code
    writes into the folder must not stop its supervisor.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(max(max_bytes, MAX_LINE_BYTES))
    except FileNotFoundError:
        return [], offset
    end = content.rfind(b"\n") + 1
    if not end:
        return [], offset + (len(content) if len(content) >= MAX_LINE_BYTES else 0)
    parsed = (_parse(line) for line in content[:end].splitlines())
    return [event for event in parsed if event is not None], offset + end


@dataclass(frozen=True)
class Control:
    """What the supervisor asks of the ranks while they run."""

    stop: str = ""  # why to stop: "cancel" writes no checkpoint; "drain", "time-limit" and any other do
    checkpoint: float = 0.0  # when a checkpoint was last asked for, in epoch seconds; 0: never


def write_control(path: Path, control: Control) -> None:
    """Ask the ranks for something after a step they agree on; `path` is the run's `control.json`."""
    write_whole(path, json.dumps(dataclasses.asdict(control)).encode(), durable=False)


def read_control(path: Path) -> Control:
    """What is asked; a file that cannot be read asks for nothing."""
    try:
        asked = json.loads(path.read_bytes())
        return Control(str(asked.get("stop", "")), float(asked.get("checkpoint", 0.0)))
    except (OSError, ValueError, TypeError, AttributeError):
        return Control()


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(event, dict) and isinstance(event.get("type"), str) and isinstance(event.get("at"), int | float):
        return event
    return None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
