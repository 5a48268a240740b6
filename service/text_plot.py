"""Panels (`panels.py`) as text: lines in dots of Braille, two by four of them a character.

What is marked in a picture is a letter here, because a pipe has no colours; on a terminal there are colours too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .panels import Panel, Series

HEIGHT = 14  # characters
LEAST_WIDTH = 20
MARGIN = 9  # for the numbers of the y axis
BLANK = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a character
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Paint = Callable[[str, int], str]  # a text in the colour of that number


@dataclass
class Canvas:
    """Characters by their place: dots that add up, or a letter over them, and the colour of what came last."""

    width: int
    height: int
    dots: dict[tuple[int, int], int] = field(default_factory=dict)
    letters: dict[tuple[int, int], str] = field(default_factory=dict)
    colours: dict[tuple[int, int], int] = field(default_factory=dict)

    def add_dot(self, x: float, y: float, colour: int) -> None:
        """Set one dot; x and y go from 0 to 1, upwards."""
        column, row = round(x * (self.width * 2 - 1)), round((1 - y) * (self.height * 4 - 1))
        place = (column // 2, row // 4)
        self.dots[place] = self.dots.get(place, 0) | DOTS[row % 4][column % 2]
        self.colours[place] = colour

    def add_letter(self, x: float, y: float, letter: str, colour: int) -> None:
        """Write a letter where x and y are."""
        place = (round(x * (self.width - 1)), round((1 - y) * (self.height - 1)))
        self.letters[place] = letter
        self.colours[place] = colour

    def rows(self, paint: Paint) -> Iterator[str]:
        """The lines, from the top."""
        for row in range(self.height):
            cells = ((column, row) for column in range(self.width))
            yield "".join(self._cell(place, paint) for place in cells).rstrip()

    def _cell(self, place: tuple[int, int], paint: Paint) -> str:
        character = self.letters.get(place) or (chr(BLANK + self.dots[place]) if place in self.dots else " ")
        return character if character == " " else paint(character, self.colours[place])


def text_lines(panel: Panel, width: int, paint: Paint = lambda text, _colour: text) -> list[str]:
    """A panel in `width` columns: title, plot, axes, and what is what."""
    canvas = Canvas(max(width - MARGIN - 2, LEAST_WIDTH), HEIGHT)
    places = [(x, y) for each in panel.series for x, y in zip(each.x, each.y, strict=True) if math.isfinite(y)]
    if not places:
        return [panel.title, "(nothing to draw)"]
    left, right = _bounds([x for x, _ in places])
    scale = math.log10 if panel.is_log else float
    low, high = _bounds([scale(y) for _, y in places])
    marks = iter(LETTERS * 10)
    legend = []
    for series in panel.series:
        mark = next(marks) if series.style in ("marked", "line") else ""
        points = [
            ((x - left) / (right - left), _place(y, scale, low, high)) for x, y in zip(series.x, series.y, strict=True)
        ]
        _add(canvas, series, points, mark)
        legend.append(paint(f"{mark or chr(BLANK + 0x36)} {series.label}", series.colour))
    return [
        f"{panel.title}{' (log scale)' if panel.is_log else ''}",
        *_with_axis(list(canvas.rows(paint)), low, high, is_log=panel.is_log),
        f"{'':{MARGIN}} └{'─' * canvas.width}",
        f"{'':{MARGIN + 2}}{_number(left)}{_number(right):>{canvas.width - len(_number(left))}}",
        f"{'':{MARGIN + 2}}{panel.x_label:^{canvas.width}}".rstrip(),
        *(f"{'':{MARGIN + 2}}{line}" for line in legend),
    ]


def _add(canvas: Canvas, series: Series, points: Sequence[tuple[float, float]], mark: str) -> None:
    previous: tuple[float, float] | None = None
    for x, y in points:
        if math.isnan(y):
            previous = None
            continue
        if previous is not None and series.style != "points":
            _add_line(canvas, previous, (x, y), series)
        canvas.add_dot(x, y, series.colour)
        previous = (x, y)
    if mark:
        # A letter at each of a few values; of many at some, so that the line is seen too.
        every = max(1, math.ceil(len(points) / (canvas.width / 6)))
        for x, y in [point for point in points if not math.isnan(point[1])][::every]:
            canvas.add_letter(x, y, mark, series.colour)


def _add_line(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], series: Series) -> None:
    across, up = end[0] - start[0], end[1] - start[1]
    num_dots = max(abs(across) * canvas.width * 2, abs(up) * canvas.height * 4)
    for number in range(1, math.ceil(num_dots)):
        share = number / num_dots
        x, y = start[0] + share * across, start[1] + share * up
        if series.style != "dashed" or round(x * canvas.width * 2) % 6 < 2:
            canvas.add_dot(x, y, series.colour)


def _with_axis(rows: Sequence[str], low: float, high: float, *, is_log: bool) -> Iterator[str]:
    """The rows with numbers at the top, in the middle and at the bottom."""
    for number, row in enumerate(rows):
        share = 1 - number / (len(rows) - 1)
        value = low + share * (high - low)
        shown = _number(10**value if is_log else value) if number in (0, len(rows) // 2, len(rows) - 1) else ""
        yield f"{shown:>{MARGIN}} {'┤' if shown else '│'}{row}"


def _place(y: float, scale: Callable[[float], float], low: float, high: float) -> float:
    return (scale(y) - low) / (high - low) if math.isfinite(y) else math.nan


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 2 or 1.0
        return low - room, high + room
    return low, high


def _number(value: float) -> str:
    return f"{value:.4g}"
