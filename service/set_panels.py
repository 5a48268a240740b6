"""The picture of a set: for each axis a panel with a point a trial, the metric over what the trial had there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dljobs.errors import NotFound

from .panels import Panel, Series

Json = Mapping[str, Any]


def panels_of_sweep(sweep: Json) -> list[Panel]:
    """The panels of a Sweep.

    Raises:
        NotFound: no trial has a value yet.
    """
    trials = [trial for trial in sweep["trials"] if trial["value"] is not None]
    if not trials:
        raise NotFound(f"no job of {sweep['id']} has been measured yet", f"`dljobs sweep {sweep['id']}` shows them")
    return [_panel(axis, trials, sweep["metric"]) for axis in sweep["axes"]]


def _panel(axis: Json, trials: Sequence[Json], metric: str) -> Panel:
    name = axis["name"]
    label, places, words = _places(name, [trial["settings"][name] for trial in trials], is_log=axis["is_log"])
    of = {"others": False, "best": True}
    series = []
    for colour, (title, is_best) in enumerate(of.items()):
        chosen = [index for index, trial in enumerate(trials) if trial["best"] == is_best]
        x, y = [places[index] for index in chosen], [trials[index]["value"] for index in chosen]
        if chosen:
            series.append(Series(title, x, y, "points", colour))
    return Panel(f"{metric} over {name}", label, metric, series, words=words)


def _places(name: str, values: Sequence[Any], *, is_log: bool) -> tuple[str, list[float], list[str]]:
    """What the x axis is called, where each value lies on it, and its words if it has no numbers: each at its place."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if is_log and all(value > 0 for value in values):
            return f"log10 of {name}", [math.log10(value) for value in values], []
        return name, [float(value) for value in values], []
    words = sorted({str(value) for value in values})
    return name, [float(words.index(str(value))) for value in values], words
