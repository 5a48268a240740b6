"""Curves: the metrics of a job over its steps, as one line each although several runs may have written them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import jobs, metrics, runs
from .database import Database
from .views import Json

MAX_POINTS = 2000  # of a curve and a run: more than a screen has pixels


def load_curves(database: Database, job_ids: Sequence[int]) -> list[Json]:
    """Every Curve of these jobs: {job_id, job_name, split, name, points, times}.

    A point is [step, epoch, value or null]; of a run that has very many there are about `MAX_POINTS`, evenly spread.
    `times` are the moments of the points by the clock of rank 0.
    """
    curves: list[Json] = []
    with database.read() as connection:
        names = {row["id"]: row["name"] for row in jobs.get_jobs(connection, job_ids)}
        rows = runs.list_runs(connection, job_ids)
        # Most runs are short: those of thousands of jobs are read at once.
        points = metrics.list_points(connection, [run["id"] for run in rows if run["step"] <= MAX_POINTS])
        for run in rows:
            if run["step"] > MAX_POINTS:
                points += metrics.list_thinned(connection, run["id"], MAX_POINTS)
    numbers = {run["id"]: run["number"] for run in rows}
    jobs_of = {run["id"]: run["job_id"] for run in rows}
    of_jobs: dict[int, list[Mapping[Any, Any]]] = {}
    for point in points:
        of_jobs.setdefault(jobs_of[point["run_id"]], []).append(point)
    for job_id in job_ids:
        for (split, name), lines in _by_curve(of_jobs.get(job_id, ()), numbers).items():
            about = {"job_id": job_id, "job_name": names[job_id], "split": split, "name": name}
            joined = join_runs(lines)
            points_only, times = [point[:3] for point in joined], [point[3] for point in joined]
            curves.append({**about, "points": points_only, "times": times})
    return curves


def join_runs(lines: Mapping[int, Sequence[list[Any]]]) -> list[list[Any]]:
    """One line from the points of several runs: a later run replaces what earlier ones wrote from its first step on.

    A run that resumes repeats the steps since the checkpoint, and one that begins anew repeats them all.

    Args:
        lines: run number to its points, each in the order of steps.
    """
    joined: list[list[Any]] = []
    for number in sorted(lines):
        first_step = lines[number][0][0] if lines[number] else math.inf
        joined = [point for point in joined if point[0] < first_step] + list(lines[number])
    return joined


def _by_curve(
    points: Sequence[Mapping[Any, Any]], numbers: Mapping[int, int]
) -> dict[tuple[str, str], dict[int, list[list[Any]]]]:
    found: dict[tuple[str, str], dict[int, list[list[Any]]]] = {}
    for point in points:
        lines = found.setdefault((point["split"], point["name"]), {})
        line = [point["step"], point["epoch"], point["value"], point["at"]]
        lines.setdefault(numbers[point["run_id"]], []).append(line)
    return dict(sorted(found.items()))
