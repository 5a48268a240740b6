"""Traces: the jobs of a simulation, read from CSV and written to it.

Columns, in any order, with a header; those in brackets may be missing:

    submit_s    when it was submitted, seconds from the beginning of the trace
    devices     how many it needs
    duration_s  how long it runs
    user        who submitted it
    [time_s]    what its user said it would take, at the most (`--time`); empty: nothing was said
    [priority]  0 to 100; 50 unless given
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dljobs.errors import UsageError

COLUMNS = ("submit_s", "devices", "duration_s", "user", "time_s", "priority")
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
                values = (repr(job.submit_s), job.num_devices, repr(job.duration_s), job.user, time_s, job.priority)
                writer.writerow(values)
    except OSError as error:
        raise UsageError(f"the trace {path} cannot be written: {error}") from None


def number_jobs(rows: Sequence[TraceJob]) -> list[TraceJob]:
    """The same jobs by the time of their submission, numbered from 1."""
    ordered = sorted(rows, key=lambda row: (row.submit_s, row.id))
    return [
        TraceJob(number, row.submit_s, row.num_devices, row.duration_s, row.user, row.time_s, row.priority)
        for number, row in enumerate(ordered, start=1)
    ]


def _row(path: Path, line: int, row: dict[str, str]) -> TraceJob:
    try:
        job = TraceJob(
            id=line,
            submit_s=float(row["submit_s"]),
            num_devices=int(row["devices"]),
            duration_s=float(row["duration_s"]),
            user=row["user"],
            time_s=float(row["time_s"]) if row.get("time_s") else None,
            priority=int(row["priority"]) if row.get("priority") else 50,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}, line {line}: {error}") from None
    times = (job.submit_s, job.duration_s, job.time_s or 0.0)
    if not all(map(math.isfinite, times)) or min(times) < 0 or job.num_devices < 1 or not 0 <= job.priority <= 100:
        raise UsageError(f"{path}, line {line}: times are not negative, devices at least 1, a priority 0 to 100")
    return job
