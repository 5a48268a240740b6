"""Reports: what the ranks wrote into the run's folder, taken over into rows, exactly once.

The byte offsets of everything taken over are written in the transaction that inserts it. While the database is down the
folder is the spool: nothing is lost, nothing arrives twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, case

from dljobs.errors import OUTAGES
from dljobs.service import logs, metrics
from dljobs.service.clock import now
from dljobs.service.database import Database
from dljobs.service.logs import MAX_LINE_LENGTH
from dljobs.service.metrics import Point
from dljobs.service.parts import HEAD, write_part
from dljobs.service.runs import RunKey, fenced_update
from dljobs.service.tables import runs

from .channel import URGENT, Event, read_events
from .folder import RunFolder
from .judge import Judge

SHIP_EVERY_S = 0.25
RETRY_AFTER_S = 2.0
MAX_BYTES_AT_ONCE = 1 << 20
MAX_LINES_WAITING = 20_000
MAX_SHARED = 200  # lines and events, for which other runs wait
MAX_STAGE_LENGTH = 200

Write = Callable[[Connection], object]


class Reports:
    """Reads the events and logs of a run's ranks on this node and writes them to the database."""

    def __init__(
        self, database: Database, key: RunKey, folder: RunFolder, ranks: range, on_event: Callable[[Event], None],
        *, node_rank: int = HEAD, voice: str = "", judge: Judge | None = None,
    ) -> None:  # fmt: skip
        """`ranks`: those of this node; `voice`: what its supervisor's own lines begin with; `judge` sees new points."""
        self._database = database
        self._key = key
        self._folder = folder
        self._ranks = ranks
        self._node_rank = node_rank
        self._voice = voice
        self._on_event = on_event
        self._judge = judge
        self._read: dict[str, int] = {}  # how far each file was read
        self._events: list[Event] = []  # read, not yet in the database
        self._lines: list[tuple[int | None, str]] = []
        self._has_shipped_output = False  # somebody may be waiting for the first line
        self._next_at = 0.0
        self._retry_at = 0.0  # after a failure

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for the database that nothing more is read: it is safe in the files."""
        return len(self._lines) > MAX_LINES_WAITING

    @property
    def is_small(self) -> bool:
        """Whether what was read and is not in the database yet may share a transaction with other runs.

        Not where it may end other trials: whoever does that locks more rows than its own run's.
        """
        return self._judge is None and len(self._lines) + len(self._events) <= MAX_SHARED

    def say(self, line: str) -> None:
        """Add a line of the supervisor's own to the run's log."""
        self._lines.append((None, self._voice + line))

    def read(self, *, final: bool = False) -> bool:
        """Take in some of what the ranks have written since, and hand each event to `on_event`, once.

        Args:
            final: the ranks are gone: a last line without an end counts too.

        Returns:
            Whether there may be more to read.
        """
        if self.is_behind:
            return True
        before = dict(self._read)
        for rank in self._ranks:
            path = self._folder.events(rank)
            events, self._read[path.name] = read_events(path, self._read.get(path.name, 0))
            for event in events:
                event.setdefault("rank", rank)
                self._on_event(event)
            self._events += events
            self._read_log(rank, final=final)
        return self._read != before

    def ship(
        self, transact: Callable[[Write], object] | None = None, *, force: bool = False, even_nothing: bool = False
    ) -> bool:
        """Write what was read to the database, at most every `SHIP_EVERY_S` seconds; True if nothing waits any more.

        Args:
            transact: calls what it is given in a transaction that others may share; None: in one of its own.
            force: at once.
            even_nothing: with a transaction that writes no more than how far was read.

        Raises:
            StaleToken: the run is no longer this worker's; nothing was written.
        """
        if not (self._events or self._lines or even_nothing):
            return True
        has_output = any(rank is not None for rank, _line in self._lines)
        is_first = has_output and not self._has_shipped_output
        is_urgent = force or is_first or any(event["type"] in URGENT for event in self._events)
        if time.monotonic() < (self._retry_at if is_urgent else max(self._next_at, self._retry_at)):
            return False
        num_lines = len(self._lines)  # `say` may add more from another thread
        try:
            (transact or self._transact)(partial(self.write, num_lines=num_lines))
        except OUTAGES:
            self._retry_at = time.monotonic() + RETRY_AFTER_S
            return False
        if self._judge is not None:
            self._judge.tell()
        self._events.clear()
        del self._lines[:num_lines]
        self._has_shipped_output |= has_output
        self._next_at = time.monotonic() + SHIP_EVERY_S
        return True

    def _transact(self, write: Write) -> None:
        with self._database.write() as connection:
            write(connection)

    def write(self, connection: Connection, *, num_lines: int | None = None, is_last: bool = False) -> None:
        """Write what was read, in a transaction of the caller's, who knows whether it got through.

        Args:
            num_lines: so many of the lines; None: all.
            is_last: the run ends with this transaction: nobody will ask how far its files were read.

        Raises:
            StaleToken: the run is no longer this worker's: the whole transaction must be undone.
        """
        spool, columns = {"spool_json": json.dumps(self._read)}, _memory_of(self._events)
        if self._node_rank == HEAD:
            columns |= _progress_of(self._events)
            if columns or not is_last:
                fenced_update(connection, self._key, **spool, **columns)
        else:
            fenced_update(connection, self._key, **columns)
            write_part(connection, self._key.run_id, self._node_rank, **spool)
        logs.add_lines(connection, self._key.run_id, self._lines[:num_lines])
        points = _points_of(self._events)
        metrics.add_points(connection, self._key.run_id, points)
        if self._judge is not None:
            self._judge.look(connection, points)

    def _read_log(self, rank: int, *, final: bool) -> None:
        path = self._folder.log(rank)
        offset = self._read.get(path.name, 0)
        content = _read_bytes(path, offset)
        # A progress bar rewrites its line with \r: each state of it is a line of its own here.
        whole = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
        is_all = len(content) < MAX_BYTES_AT_ONCE
        if (final and is_all) or not (whole or is_all):
            whole = len(content)
        self._read[path.name] = offset + whole
        for line in content[:whole].decode("utf-8", "replace").splitlines():
            pieces = range(0, max(len(line), 1), MAX_LINE_LENGTH)
            self._lines += [(rank, line[start : start + MAX_LINE_LENGTH]) for start in pieces]


def _read_bytes(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(MAX_BYTES_AT_ONCE)
    except FileNotFoundError:
        return b""


def _progress_of(events: list[Event]) -> dict[str, Any]:
    """The columns of the run's row that these events change."""
    values: dict[str, Any] = {}
    for event in events:
        if event["type"] == "stage":  # of any rank: the others wait for the one that fetches
            values["stage"] = str(event["text"])[:MAX_STAGE_LENGTH]
        elif event["type"] == "plan":
            values["total_steps"] = int(event["total_steps"])
        elif event["type"] == "first_step" and event["rank"] == 0:
            values["first_step_at"] = now() - max(0.0, time.time() - event["at"])  # an age is the same by any clock
        elif event["type"] == "progress":
            values |= {name: event[name] for name in ("step", "total_steps", "epoch", "steps_per_s")}
            values["progress_at"] = now()
        elif event["type"] == "stopped":  # later than the last progress
            values |= {name: event[name] for name in ("step", "epoch")}
    return values


def _memory_of(events: list[Event]) -> dict[str, Any]:
    """The most GPU memory that any rank took, those whose events came earlier included."""
    peaks = [int(event["peak_bytes"]) for event in events if event["type"] == "memory"]
    if not peaks:
        return {}
    known = runs.c.peak_memory_bytes
    return {"peak_memory_bytes": case((known > max(peaks), known), else_=max(peaks))}


def _points_of(events: list[Event]) -> list[Point]:
    points: list[Point] = []
    for event in events:
        if event["type"] == "losses":
            pairs = zip(event["steps"], event["values"], strict=True)
            points += [Point(step, event["epoch"], "train", "loss", value, event["at"]) for step, value in pairs]
        elif event["type"] == "metrics":
            where = (event["step"], event["epoch"], event["split"])
            values = event["values"].items()
            points += [Point(*where, name, math.nan if value is None else value, event["at"]) for name, value in values]
    return points
