"""Plots: panels (`panels.py`) as a picture, drawn without a display. It knows neither jobs nor rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import check_target, new_figure, save_figure
from .panels import Axis, Panel, Series, Style, panels_of
from .views import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 5.8, 4.0  # of a panel, in inches
MAX_COLUMNS = 3
MAX_WORDS, MAX_LETTERS, LETTERS_IN_A_ROW = 40, 24, 50  # along an x axis
MAX_NAMED = 40  # a longer legend would hide what it is of
COUNTED = ("step", "epoch")  # there is no half of one to put a number at
STYLES: dict[Style, dict[str, Any]] = {
    "line": {"linewidth": 2.6, "alpha": 0.8},
    "thin": {"linewidth": 0.8, "alpha": 0.4},
    "dashed": {"linewidth": 1.3, "linestyle": "--"},
    "marked": {"linewidth": 1.6, "marker": "o", "markersize": 3.5},
    "points": {"linestyle": "", "marker": "o", "markersize": 4.5, "alpha": 0.7},
}


def draw(curves: Sequence[Json], target: Path, axis: Axis = "step") -> None:
    """Draw the loss (train thin, its mean of each epoch dashed, test thick) and beside it every other metric.

    Raises:
        NotFound: no curve has a point yet.
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    check_target(target)
    draw_panels(panels_of(curves, axis), target)


def draw_panels(panels: Sequence[Panel], target: Path) -> None:
    """Draw panels side by side, in rows of three.

    Raises:
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    num_columns = min(len(panels), MAX_COLUMNS)
    num_rows = math.ceil(len(panels) / num_columns)
    figure = new_figure(WIDTH * num_columns, HEIGHT * num_rows)
    is_shared = len({panel.x_label for panel in panels}) == 1
    cells = figure.subplots(num_rows, num_columns, squeeze=False, sharex=is_shared).flatten()
    for axes, panel in zip(cells, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    save_figure(figure, target)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        axes.plot(series.x, series.y, label=series.label, color=f"C{series.colour % 10}", **_style(series))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_title(panel.title, fontsize=11)
    if panel.is_log:
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    axes.tick_params(labelbottom=True)
    if panel.words:
        _put_words(axes, panel.words)
    elif panel.x_label in COUNTED:
        axes.locator_params(axis="x", integer=True)
    if len(panel.series) <= MAX_NAMED:
        axes.legend(fontsize=8, framealpha=0.8)


def _put_words(axes: Axes, words: Sequence[str]) -> None:
    """Words along the x axis, upright where they are many or long; of very many only some."""
    every = math.ceil(len(words) / MAX_WORDS)
    shown = [word if len(word) <= MAX_LETTERS else f"{word[: MAX_LETTERS - 1]}…" for word in words[::every]]
    is_long = sum(map(len, shown)) > LETTERS_IN_A_ROW
    axes.set_xticks(range(0, len(words), every), shown, rotation=90 if is_long else 0)
    axes.set_xlim(-0.5, len(words) - 0.5)


def _style(series: Series) -> dict[str, Any]:
    style = STYLES[series.style]
    # A single value has no line to be seen.
    return {**style, "marker": "o", "markersize": 4} if len(series.y) == 1 else style
