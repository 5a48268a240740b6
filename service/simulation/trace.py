"""Traces: the jobs of a simulation, read from CSV and written to it.

Columns, in any order, with a header; those in brackets may be missing:

    submit_s    when it was submitted, seconds from the beginning of the trace
    devices     how many it needs: 4, a range 2-8, or 0.25 of one
    duration_s  how long it runs; of a range: on the most, and on fewer as much longer as they are fewer
    user        who submitted it
    [time_s]    what its user said it would take, at the most (`--time`); empty: nothing was said
    [priority]  0 to 100; 50 unless given
    [preemptible]  1: more important jobs may have its devices
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dljobs.errors import UsageError
from dljobs.service.sizes import Size, parse_size

COLUMNS = ("submit_s", "devices", "duration_s", "user", "time_s", "priority", "preemptible")
REQUIRED = COLUMNS[:4]


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job of a trace; its id is its place in it."""

    id: int
    submit_s: float
    num_devices: int
    duration_s: float
    user: str
    time_s: float | None = None
    priority: int = 50
    min_devices: int | None = None  # None: all of them
    share_percent: int = 100  # less: a part of one
    is_preemptible: bool = False

    @property
    def size(self) -> Size:
        """The devices that it asks for."""
        return Size(self.num_devices, self.min_devices or self.num_devices, self.share_percent)

    @property
    def device_s(self) -> float:
        """How much of the devices it uses, on however many."""
        return self.num_devices * self.share_percent / 100 * self.duration_s

    def duration_on(self, num_devices: int) -> float:
        """How long it runs on so many."""
        return self.duration_s * self.num_devices / num_devices


def read_trace(path: Path) -> list[TraceJob]:
    """The jobs of a CSV file, by the time of their submission.

    Raises:
        UsageError: a column is missing, or a value is none; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{path} has no column {missing[0]}", f"a trace has the columns {', '.join(REQUIRED)}")
            rows = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the trace {path} cannot be read: {error}") from None
    if not rows:
        raise UsageError(f"the trace {path} has no jobs")
    return number_jobs(rows)


def write_trace(path: Path, jobs: Iterable[TraceJob]) -> None:
    """Write the jobs so that `read_trace` reads the same ones.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for job in jobs:
                time_s = "" if job.time_s is None else repr(job.time_s)
                values = (repr(job.submit_s), str(job.size), repr(job.duration_s), job.user, time_s, job.priority)
                writer.writerow((*values, int(job.is_preemptible)))
    except OSError as error:
        raise UsageError(f"the trace {path} cannot be written: {error}") from None


def number_jobs(rows: Sequence[TraceJob]) -> list[TraceJob]:
    """The same jobs by the time of their submission, numbered from 1."""
    ordered = sorted(rows, key=lambda row: (row.submit_s, row.id))
    return [replace(row, id=number) for number, row in enumerate(ordered, start=1)]


def _row(path: Path, line: int, row: dict[str, str]) -> TraceJob:
    try:
        size = parse_size(row["devices"] or "")
        job = TraceJob(
            id=line,
            submit_s=float(row["submit_s"]),
            num_devices=size.num_devices,
            duration_s=float(row["duration_s"]),
            user=row["user"],
            time_s=float(row["time_s"]) if row.get("time_s") else None,
            priority=int(row["priority"]) if row.get("priority") else 50,
            min_devices=None if size.is_fixed else size.min_devices,
            share_percent=size.share_percent,
            is_preemptible=bool(int(row.get("preemptible") or 0)),
        )
    except UsageError as error:
        raise UsageError(f"{path}, line {line}: {error.message.removeprefix('--gpus: ')}", error.hint) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}, line {line}: {error}") from None
    times = (job.submit_s, job.duration_s, job.time_s or 0.0)
    if not all(map(math.isfinite, times)) or min(times) < 0 or not 0 <= job.priority <= 100:
        raise UsageError(f"{path}, line {line}: times are not negative, a priority is 0 to 100")
    return job
