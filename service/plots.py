"""Plots: curves as a picture, drawn without a display. It knows curves (`curves.py`), no rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dljobs.errors import NotFound

from .figures import check_target, new_figure, save_figure
from .views import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(curves: Sequence[Json], target: Path) -> None:
    """Draw the loss (train thin, test thick) and beside it every other metric, one colour a job.

    Raises:
        NotFound: no curve has a point yet.
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    check_target(target)
    drawn = [curve for curve in curves if any(value is not None for _step, _epoch, value in curve["points"])]
    if not drawn:
        raise NotFound("there are no metrics to draw yet", "they appear while a job runs: `dljobs status`")
    names = sorted({curve["name"] for curve in drawn}, key=lambda name: (name != "loss", name))
    figure = new_figure(6.4 * len(names), 4.4)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_metric(axes, name, [curve for curve in drawn if curve["name"] == name])
    save_figure(figure, target)


def _draw_metric(axes: Axes, name: str, curves: Sequence[Json]) -> None:
    colours = {job_id: f"C{index}" for index, job_id in enumerate(sorted({curve["job_id"] for curve in curves}))}
    for curve in curves:
        steps = [step for step, _epoch, _value in curve["points"]]
        values = [math.nan if value is None else value for _step, _epoch, value in curve["points"]]
        is_train = curve["split"] == "train"
        label = f"job {curve['job_id']} {curve['job_name']}, {curve['split']}"
        style = {"linewidth": 0.8, "alpha": 0.6} if is_train else {"linewidth": 1.6, "marker": "o", "markersize": 3}
        axes.plot(steps, values, color=colours[curve["job_id"]], label=label, **style)
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
