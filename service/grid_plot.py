"""A grid of samples as pictures, each with what a model takes it for and what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import new_figure, save_figure
from .views import Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SHOWN = 64
MAX_COLUMNS = 8
CELL = 1.25  # inches
MAX_WORD = 14


def draw_grid(images: NDArray[Any], predictions: Sequence[Json], title: str, target: Path) -> None:
    """Draw the first samples: black what is right, red what is wrong, with the true class.

    Args:
        images: uint8 [n, height, width, 1 or 3].
        predictions: as `prediction.predict` gives them, one for each image.

    Raises:
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    num_shown = min(len(images), MAX_SHOWN)
    num_columns = min(math.ceil(math.sqrt(num_shown)), MAX_COLUMNS)
    num_rows = math.ceil(num_shown / num_columns)
    labels = [describe(each) for each in predictions[:num_shown]]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = new_figure(max(CELL * num_columns, 3.2), (CELL + 0.17 * lines) * num_rows + 0.35)
    cells = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes in cells:
        axes.set_axis_off()
    for axes, image, label, said in zip(cells, images, labels, predictions, strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(label, fontsize=8, pad=3, color="crimson" if is_wrong(said) else "black")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, target)


def describe(said: Json) -> str:
    """`7 (98%)`, and below it `true 1` where that is known."""
    if said["values"] is not None:
        text, true = _numbers(said["values"]), _numbers(said["true"])
    else:
        text = f"{_short(said['class'])} ({said['probability'] or 0:.0%})"
        true = _short(said["true"] or "")
    return f"{text}\ntrue {true}" if true else text


def is_wrong(said: Json) -> bool:
    """Whether the class is known and is another one."""
    return said["class"] is not None and said["true"] is not None and said["class"] != said["true"]


def _numbers(values: Sequence[float | None] | None) -> str:
    return ", ".join("-" if value is None else f"{value:.3g}" for value in (values or ())[:3])


def _short(word: str) -> str:
    return word if len(word) <= MAX_WORD else f"{word[: MAX_WORD - 1]}…"
