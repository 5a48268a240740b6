"""A progress bar on stderr for one job that is followed. Only loaded on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from .output import print_lines
from .wording import describe, describe_eta, describe_progress


class BarWriter:
    """Lines above a bar. Where stdout is the same terminal, they go through the bar, which would else be torn."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._progress.add_task("", total=None, note="")

    def __enter__(self) -> BarWriter:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def write(self, lines: Sequence[str]) -> None:
        """Print lines above the bar."""
        if not sys.stdout.isatty():
            print_lines(lines)
            return
        for line in lines:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, job: Mapping[str, Any]) -> None:
        """Move the bar to where the job is."""
        now = job["progress"] or {}
        eta = describe_eta(job)
        told = describe_progress(job)
        if now.get("total_steps"):
            told = told.partition(" ")[2]  # the bar shows the share
        note = f"{told} {f'{eta} left' if eta else ''}" if now else describe(job)
        self._progress.update(
            self._task,
            description=f"job {job['id']} {job['state']}",
            total=now.get("total_steps") or None,
            completed=now.get("step", 0),
            note=note.strip()[:80],
        )
