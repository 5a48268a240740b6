"""Figures: a matplotlib figure that needs no display, and its way into a file. Others know what is drawn on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dljobs.errors import DljobsError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 120


def check_target(target: Path) -> None:
    """Refuse a file that could not be drawn, before any work is done for it.

    Raises:
        UsageError: its name says no known format.
        DljobsError: its folder does not exist, or matplotlib is not installed.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError(
            f"cannot draw a {target.suffix or 'file without a suffix'}", f"end it in {', '.join(SUFFIXES)}"
        )
    if not target.parent.is_dir():
        raise DljobsError(f"cannot write {target}: there is no folder {target.parent}")
    new_figure(1, 1)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches.

    Raises:
        DljobsError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DljobsError(
            f"{error.name} is not installed, and drawing needs it", "pip install 'dljobs[plot]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write the figure in the format that the file's name says.

    Raises:
        DljobsError: the file cannot be written.
    """
    try:
        figure.savefig(target, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise DljobsError(f"cannot write {target}: {error.strerror}") from error
