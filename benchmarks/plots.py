"""A picture of each table: how everybody stands to the baseline, and how far each expectation is.

It knows results, not how anything is measured. Bars begin at the baseline: left of it is less, right of it is more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dljobs.service.figures import new_figure, save_figure

from .benchmark import Benchmark
from .result import Result, Series, Verdict, show_amount, show_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS = Path(__file__).with_name("plots")
WIDTH, ROW, MARGIN = 10.0, 0.21, 0.62  # inches
LOG_ABOVE = 8.0  # of the largest over the smallest ratio
_OURS, _FLOOR, _PEER, _MET, _MISSED = "tab:blue", "black", "darkgray", "tab:green", "tab:red"
_SMALL = 8  # points
_WORDS = 0.35
_NUM_COLOURS = 128


@dataclass(frozen=True)
class Bar:
    """One row of a panel; without a value it is a heading."""

    label: str
    value: float | None = None
    text: str = ""
    colour: str = _PEER


@dataclass(frozen=True)
class Panel:
    """Rows with one axis. Bars begin at `origin`, which has a line."""

    axis: str
    bars: Sequence[Bar]
    origin: float
    is_log: bool


def draw(benchmark: Benchmark, result: Result, folder: Path = PLOTS) -> Path:
    """Draw a benchmark's result to `NAME.png` in the folder; returns the file.

    Raises:
        DljobsError: matplotlib is not installed, or the file cannot be written.
    """
    panels = _panels(benchmark, result)
    heights = [ROW * len(panel.bars) + MARGIN for panel in panels]
    figure = new_figure(WIDTH, sum(heights) + 0.3)
    cells = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, panel in zip(cells, panels, strict=True):
        _draw(axes, panel)
    figure.suptitle(benchmark.title, fontsize=11, fontweight="bold")
    folder.mkdir(exist_ok=True)
    path = folder / f"{benchmark.name}.png"
    save_figure(figure, path)
    _shrink(path)
    return path


def _panels(benchmark: Benchmark, result: Result) -> list[Panel]:
    by_axis: dict[str, list[Bar]] = {}
    for (case, quantity), group in _groups(result.series).items():
        base = next((each for name in benchmark.baselines for each in group if each.peer == name), None)
        heading = ", ".join(word for word in (case, quantity) if word and word != group[0].unit)
        if base is None or len(group) == 1:
            bars = by_axis.setdefault(f"median, {group[0].unit}", [])
            bars += [Bar(heading), *(_bar(benchmark, each) for each in group)]
            continue
        # The baseline needs no bar: it is the line where all others begin.
        bars = by_axis.setdefault(f"median, × {base.peer} (left is less)", [])
        bars.append(Bar(f"{heading} ({base.peer}: {show_amount(base.median, base.unit)})"))
        bars += [_bar(benchmark, each, result.ratio(each, base.peer)) for each in group if each is not base]
    panels = [_panel(axis, bars, 1.0 if "×" in axis else 0.0) for axis, bars in by_axis.items()]
    if result.verdicts:
        goals = [_goal(each) for each in result.verdicts]
        panels.append(Panel("of what is allowed (left of the line is met)", goals, 1.0, is_log=True))
    return panels


def _groups(series: Sequence[Series]) -> dict[tuple[str, str], list[Series]]:
    """What can be compared: the peers of a case and a quantity."""
    found: dict[tuple[str, str], list[Series]] = {}
    for each in series:
        found.setdefault((each.case, each.quantity), []).append(each)
    return found


def _bar(benchmark: Benchmark, series: Series, ratio: float | None = None) -> Bar:
    colour = _OURS if series.peer.startswith(benchmark.ours) else _FLOOR if "floor" in series.peer else _PEER
    amount = show_amount(series.median, series.unit)
    if ratio is None:
        return Bar(series.peer, series.median, amount, colour)
    return Bar(series.peer, ratio, f"{show_number(ratio)}  ({amount})", colour)


def _panel(axis: str, bars: Sequence[Bar], origin: float) -> Panel:
    values = [bar.value for bar in bars if bar.value is not None]
    is_log = bool(origin) and max(values) / min(values) > LOG_ABOVE
    return Panel(axis, bars, origin, is_log)


def _goal(verdict: Verdict) -> Bar:
    less, more = (verdict.limit, verdict.value) if verdict.is_minimum else (verdict.value, verdict.limit)
    bound = "at least" if verdict.is_minimum else "at most"
    text = f"{show_number(verdict.value)}, {bound} {show_number(verdict.limit)}"
    # What is next to nothing, or far too much, would make all others look alike.
    used = min(max(less / max(more, 1e-9), 0.01), 100.0)
    return Bar(verdict.claim, used, text, _MET if verdict.is_met else _MISSED)


def _draw(axes: Axes, panel: Panel) -> None:
    shown = [(place, bar, bar.value) for place, bar in enumerate(panel.bars) if bar.value is not None]
    _scale(axes, panel, [value for _place, _bar, value in shown])
    for place, bar, value in shown:
        begin = panel.origin if panel.is_log else 0.0
        axes.barh(place, value - begin, left=begin, height=0.7, color=bar.colour)
        is_left = panel.is_log and value < panel.origin
        axes.annotate(
            bar.text, (value, place), (-4 if is_left else 4, 0), textcoords="offset points", fontsize=_SMALL,
            va="center", ha="right" if is_left else "left", zorder=3,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    if panel.origin:
        axes.axvline(panel.origin, color="black", linewidth=0.8)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars], fontsize=_SMALL)
    for label, bar in zip(axes.get_yticklabels(), panel.bars, strict=True):
        if bar.value is None:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.set_xlabel(panel.axis, fontsize=_SMALL)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _scale(axes: Axes, panel: Panel, values: Sequence[float]) -> None:
    """Set the x axis so that there is room for the words beside the bars."""
    if not panel.is_log:
        axes.set_xlim(0.0, max(panel.origin, *values) * 1.3)
        return
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = min(panel.origin / 1.5, *values), max(panel.origin * 1.5, *values)
    # Of the width that is left, the words take a third.
    room = max((high / low) ** _WORDS, 1.5)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    num_decades = math.log10(high / low * room * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if num_decades < 3 else (1.0,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _shrink(path: Path) -> None:
    """A picture of few colours in a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(_NUM_COLOURS).save(path, optimize=True)
