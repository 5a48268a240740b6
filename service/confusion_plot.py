"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# Beyond, the numbers would be too small to read, and so would each class's name.
MAX_NUMBERED = 25
MAX_TICKS = 50


def draw_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], title: str, target: Path) -> None:
    """Draw rows as true classes, columns as predicted ones: the colour is the share of the row, the number the count.

    Raises:
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    import numpy as np

    counts = np.array(matrix, dtype=float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    longest = max(map(len, names))
    side = min(max(3.2, 0.46 * len(names)), 10) + 0.08 * longest
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    every = -(-len(names) // MAX_TICKS)
    ticks = range(0, len(names), every)
    shown = [names[tick] for tick in ticks]
    is_upright = longest > 2 and len(names) > 4
    axes.set_xticks(ticks, shown, rotation=45 if is_upright else 0, ha="right" if is_upright else "center")
    axes.set_yticks(ticks, shown)
    axes.tick_params(length=0, labelsize=9 if len(names) <= MAX_NUMBERED else 7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    if len(names) <= MAX_NUMBERED:
        _write_counts(axes, counts, shares)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
    bar.set_label("share of the true class")
    save_figure(figure, target)


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[Any]) -> None:
    size = 9 if len(counts) <= 12 else 7
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=size)
