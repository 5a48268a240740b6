"""Tables of text. Written out here because importing a library for it costs a tenth of what `dljobs status` takes.

On a terminal a table fits its width, states have colours, and columns in which nothing stands are left out. On a pipe
nothing is coloured, every column is there, and the last one is never shortened, nor any that a script would read.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import click

from .output import one_line, print_lines

PIPE_WIDTH = 120
GAP = "  "
LEAST_WIDTH = 6  # of a column that is shortened
LEAST_LAST_WIDTH = 30  # the last one says why: it gives way last
COLOURS = {
    "running": "green",
    "starting": "green",
    "online": "green",
    "queued": "yellow",
    "held": "yellow",
    "draining": "yellow",
    "failed": "red",
    "silent": "red",
    "cancelled": "bright_black",
    "offline": "bright_black",
}


@dataclass(frozen=True)
class Column:
    """A column of a table. One that is not `kept` may be shortened where the table is too wide."""

    title: str
    kept: bool = True
    right: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout."""
    print_lines(table_lines(columns, rows))


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table. A cell that is the name of a state gets its colour, on a terminal."""
    on_terminal = sys.stdout.isatty()
    cells = [[one_line(cell) for cell in row] for row in rows]
    if on_terminal:
        shown = [index for index in range(len(columns)) if not cells or any(row[index] for row in cells)]
        columns = [columns[index] for index in shown]
        cells = [[row[index] for index in shown] for row in cells]
    widths = _fit(columns, cells, on_terminal=on_terminal)
    lines = [_line([column.title for column in columns], columns, widths)]
    coloured = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if coloured:
        lines = [click.style(lines[0], bold=True)]
    return lines + [_line(row, columns, widths, coloured=coloured) for row in cells]


def output_width() -> int:
    """Columns of the terminal, or the fixed width of a pipe."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    columns = os.environ.get("COLUMNS", "")
    return max(int(columns) if columns.isdigit() else 0, PIPE_WIDTH)


def cell_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], *, on_terminal: bool) -> list[int]:
    widths = [
        max(cell_width(column.title), *(cell_width(row[index]) for row in cells), 0)
        for index, column in enumerate(columns)
    ]
    least = [
        width if column.kept else min(width, max(LEAST_WIDTH, len(column.title)))
        for width, column in zip(widths, columns, strict=True)
    ]
    room = output_width() - len(GAP) * (len(columns) - 1)
    if on_terminal:
        least[-1] = min(widths[-1], LEAST_LAST_WIDTH)
    else:
        least[-1], room = widths[-1], room + max(widths[-1] - LEAST_LAST_WIDTH, 0)
    while sum(widths) > room:
        index = max(range(len(columns)), key=lambda index: widths[index] - least[index])
        if widths[index] == least[index]:
            break
        widths[index] -= 1
    return widths


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], *, coloured: bool = False) -> str:
    texts = []
    for cell, column, width in zip(row, columns, widths, strict=True):
        text = _shorten(cell, width)
        padding = " " * (width - cell_width(text))
        if coloured and cell in COLOURS:
            text = click.style(text, fg=COLOURS[cell])
        texts.append(padding + text if column.right else text + padding)
    return GAP.join(texts).rstrip()


def _shorten(text: str, width: int) -> str:
    if cell_width(text) <= width:
        return text
    while cell_width(text) > width - 1:
        text = text[:-1]
    return text + "…"
