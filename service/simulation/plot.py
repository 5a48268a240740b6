"""The picture of a simulation: how long jobs waited, and how many devices were busy, a colour a policy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from dljobs.service.figures import new_figure, save_figure

from .simulator import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_WAIT_S = 1.0  # where the logarithmic axis begins: who waited less is drawn there
MOST_POINTS = 4000


def draw_simulation(records: Mapping[str, Record], target: Path) -> None:
    """Draw the share of jobs by wait, and the busy devices over time.

    Raises:
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(12.8, 4.4)
    waits, busy = figure.subplots(1, 2)
    for name, record in records.items():
        _draw_waits(waits, name, record)
        _draw_busy(busy, name, record)
    waits.set(xscale="log", xlabel="wait (s)", ylabel="share of jobs", title="Jobs that waited at most so long")
    busy.set(xlabel="time (h)", ylabel="busy devices", title="Devices in use")
    for axes in (waits, busy):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, target)


def _draw_waits(axes: Axes, name: str, record: Record) -> None:
    waits = sorted(record.starts[job.id] - job.submit_s for job in record.jobs if job.id in record.starts)
    every = max(len(waits) // MOST_POINTS, 1)
    places = range(0, len(waits), every)
    axes.step([max(waits[n], LEAST_WAIT_S) for n in places], [(n + 1) / len(waits) for n in places], label=name)


def _draw_busy(axes: Axes, name: str, record: Record) -> None:
    changes: dict[float, float] = {}
    for run in record.intervals:
        changes[run.start] = changes.get(run.start, 0) + run.held
        changes[run.end] = changes.get(run.end, 0) - run.held
    moments = sorted(changes)
    busy = list(accumulate(changes[moment] for moment in moments))
    every = max(len(moments) // MOST_POINTS, 1)
    axes.step([m / 3600 for m in moments[::every]], busy[::every], where="post", label=name, linewidth=1)
