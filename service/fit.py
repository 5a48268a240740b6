"""A fit: what a job's weights have learned of a function, as a panel to draw and as JSON."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .child import ask, require_torch
from .database import Database
from .evaluation import trained_request
from .panels import Panel, Series
from .settings import Settings
from .views import Json
from .weights import find_state_dict

FEW_POINTS = 60


@dataclass(frozen=True)
class Fit:
    """A Fit as JSON, and its panel."""

    view: Json
    panel: Panel


def load_fit(database: Database, settings: Settings, job_id: int, which: str) -> Fit:
    """What the weights that `which` means (best, last or an epoch) have learned.

    Raises:
        NotFound: there are no such weights.
        DljobsError: torch is not installed, or the job has learned classes.
    """
    spec, artifact = find_state_dict(database, job_id, which)
    require_torch("computing what was learned")
    with tempfile.TemporaryDirectory(prefix="dljobs-fit-") as place:
        folder = Path(place)
        request = trained_request(database, settings, spec, artifact["id"], folder, "cpu")
        answer = ask("fit", request, folder, what="the fit")
    empty: Json = {"points": None, "fit": None, "truth": None, "parity": None}
    view = {"job_id": job_id, "artifact": artifact, "data": spec.data, **empty, **answer}
    title = f"job {job_id}, {artifact['name']}, on {spec.data}"
    return Fit(view, parity_panel(answer["parity"], title) if view["parity"] else _curve_panel(view, title))


def _curve_panel(view: Json, title: str) -> Panel:
    data = Series("data", view["points"]["x"], _numbers(view["points"]["y"]), "points", 0)
    series = [Series("learned", view["fit"]["x"], _numbers(view["fit"]["y"]), "line", 1)]
    if view["truth"]:
        series.append(Series("truth", view["truth"]["x"], _numbers(view["truth"]["y"]), "dashed", 7))
    # Few points lie on the curve, many would cover it.
    series.insert(len(series) if len(data.x) <= FEW_POINTS else 0, data)
    return Panel(title, "x", "y", series)


def parity_panel(parity: Json, title: str) -> Panel:
    """Predicted values over true ones: where all is right, the points lie on the diagonal."""
    true, predicted = _numbers(parity["true"]), _numbers(parity["predicted"])
    ends = [min(true), max(true)]
    series = [Series("test samples", true, predicted, "points", 0), Series("as it should be", ends, ends, "dashed", 2)]
    return Panel(title, "true value", "predicted value", series)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
