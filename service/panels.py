"""Panels: what is to be drawn, before it is known with what: a picture (`plots.py`) or a terminal (`text_plot.py`)."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dljobs.errors import NotFound

from .views import Json

Axis = Literal["step", "epoch", "time"]
# thin: many noisy values; dashed: means or the truth; marked: few values, each of them seen; points: no line.
Style = Literal["line", "thin", "dashed", "marked", "points"]

MEAN_OF_EPOCH = "epoch_loss"
# Whatever falls towards zero: a log scale shows how, once it spans two decades.
FALLING = ("loss", "mse", "mae")
DECADES = 2.0
LEAST_MEANS = 3
STYLES: dict[str, Style] = {"train": "thin", "test": "marked"}
# From how many seconds on which unit is used: (at least, its seconds, its name).
TIME_UNITS = ((2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True)
class Series:
    """One line or cloud of points; a value that is NaN is a gap. `colour` counts from 0."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style = "line"
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes and what is on it; with `words` the x axis has these at 0, 1, 2, … instead of numbers."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series] = field(default_factory=tuple)
    is_log: bool = False
    words: Sequence[str] = ()


def panels_of(curves: Sequence[Json], axis: Axis = "step") -> list[Panel]:
    """A panel for the loss and one for every other metric, one colour a job.

    The mean loss of an epoch stands with the losses. A metric that repeats the loss (mse, where that is the loss) has
    no panel of its own.

    Raises:
        NotFound: no curve has a point yet.
    """
    drawn = [
        curve
        for curve in curves
        if any(value is not None for _step, _epoch, value in curve["points"]) and _is_telling(curve)
    ]
    if not drawn:
        raise NotFound("there are no metrics to draw yet", "they appear while a job runs: `dljobs status`")
    names = sorted({_panel_name(curve) for curve in drawn}, key=lambda name: (name != "loss", name))
    colours = {job_id: index for index, job_id in enumerate(dict.fromkeys(curve["job_id"] for curve in drawn))}
    x_label, positions = _positions(curves, axis)
    panels = []
    for name in names:
        mine = [curve for curve in drawn if _panel_name(curve) == name]
        if name != "loss" and _repeats_the_loss(mine, drawn):
            continue
        series = [_series(curve, positions(curve), colours[curve["job_id"]]) for curve in mine]
        # What is thick is drawn last, over the noise.
        series.sort(key=lambda each: ("thin", "dashed", "marked").index(each.style))
        panels.append(Panel(name, x_label, name, series, is_log=name in FALLING and spans_decades(series)))
    return panels


def spans_decades(series: Sequence[Series]) -> bool:
    """Whether all values are above zero and so far apart that a linear scale would show only the largest."""
    values = [value for each in series for value in each.y if math.isfinite(value)]
    return bool(values) and min(values) > 0 and math.log10(max(values) / min(values)) >= DECADES


def _is_telling(curve: Json) -> bool:
    """A line through two means would only hide the losses that they are of."""
    return curve["name"] != MEAN_OF_EPOCH or len(curve["points"]) >= LEAST_MEANS


def _panel_name(curve: Json) -> str:
    return "loss" if curve["name"] == MEAN_OF_EPOCH else str(curve["name"])


def _repeats_the_loss(curves: Sequence[Json], drawn: Sequence[Json]) -> bool:
    losses = {(curve["job_id"], curve["split"]): curve["points"] for curve in drawn if curve["name"] == "loss"}
    return all(_are_close(curve["points"], losses.get((curve["job_id"], curve["split"]), ())) for curve in curves)


def _are_close(points: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> bool:
    return len(points) == len(others) and all(
        one[0] == other[0] and (one[2] == other[2] or math.isclose(one[2] or 0.0, other[2] or 0.0, rel_tol=1e-4))
        for one, other in zip(points, others, strict=True)
    )


def _series(curve: Json, x: Sequence[float], colour: int) -> Series:
    values = [math.nan if value is None else float(value) for _step, _epoch, value in curve["points"]]
    split, style = curve["split"], STYLES[curve["split"]]
    if curve["name"] == MEAN_OF_EPOCH:
        split, style, x = "train, mean of the epoch", "dashed", _middles(x)
    return Series(f"job {curve['job_id']} {curve['job_name']}, {split}", x, values, style, colour)


def _middles(ends: Sequence[float]) -> list[float]:
    """Where a mean belongs that was recorded at the end of what it is of."""
    return [(before + end) / 2 for before, end in itertools.pairwise([0.0, *ends])]


def _positions(curves: Sequence[Json], axis: Axis) -> tuple[str, Callable[[Json], list[float]]]:
    """The label of the x axis, and where on it the points of a curve are."""
    if axis == "step":
        return "step", lambda curve: [float(step) for step, _epoch, _value in curve["points"]]
    if axis == "epoch":
        ends = {job_id: _epoch_ends(curves, job_id) for job_id in {curve["job_id"] for curve in curves}}
        return "epoch", lambda curve: [
            _in_epochs(step, epoch, ends[curve["job_id"]]) for step, epoch, _ in curve["points"]
        ]
    starts: dict[int, float] = {}
    for curve in curves:
        starts[curve["job_id"]] = min([*curve["times"], starts.get(curve["job_id"], math.inf)])
    longest = max((time - starts[curve["job_id"]] for curve in curves for time in curve["times"]), default=0.0)
    unit_s, unit = next((unit_s, unit) for least_s, unit_s, unit in TIME_UNITS if longest >= least_s)
    label = f"{unit} since the first step"
    return label, lambda curve: [(time - starts[curve["job_id"]]) / unit_s for time in curve["times"]]


def _epoch_ends(curves: Sequence[Json], job_id: int) -> list[tuple[int, int]]:
    """(step, epoch) where an epoch ended: there it was tested, and its mean loss recorded."""
    ends = {
        (step, epoch)
        for curve in curves
        if curve["job_id"] == job_id and (curve["split"] == "test" or curve["name"] == MEAN_OF_EPOCH)
        for step, epoch, _value in curve["points"]
    }
    return sorted({(0, 0), *ends})


def _in_epochs(step: int, epoch: int, ends: Sequence[tuple[int, int]]) -> float:
    """Between two ends in proportion to the steps; beyond the last one at the pace of the epoch before."""
    if len(ends) < 2:
        return float(epoch)
    index = min(max(bisect.bisect_left(ends, (step, 0)), 1), len(ends) - 1)
    (step_before, epoch_before), (step_after, epoch_after) = ends[index - 1], ends[index]
    if step_after == step_before:
        return float(epoch_after)
    return epoch_before + (epoch_after - epoch_before) * (step - step_before) / (step_after - step_before)
