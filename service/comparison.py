"""Comparison of two jobs: what was asked for, what came out, and the weights, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dljobs.errors import NotFound

from . import jobs
from .curves import load_curves
from .database import Database
from .inspection import open_weights
from .tensors import TensorFile
from .views import Json

NOT_COMPARED = ("version",)


def compare(database: Database, a: int, b: int, which: str) -> Json:
    """A Comparison of jobs `a` and `b`.

    Args:
        which: best, last or an epoch: the weights of both.

    Raises:
        NotFound: there is no such job.
        CorruptArtifact: stored weights are damaged.
    """
    with database.read() as connection:
        rows = [jobs.get_job(connection, job_id) for job_id in (a, b)]
    weights = [_weights(database, job_id, which) for job_id in (a, b)]
    first, second = (file for _artifact, file in weights)
    both = zip(rows, weights, strict=True)
    compared = [
        {"job_id": row["id"], "name": row["name"], "state": row["state"], "artifact": artifact}
        for row, (artifact, _file) in both
    ]
    specs = [_flat(json.loads(row["spec_json"])) for row in rows]
    metrics = [_metrics(database, row) for row in rows]
    return {
        "a": compared[0],
        "b": compared[1],
        "spec": [each for each in _side_by_side(*specs) if each["a"] != each["b"]],
        "metrics": _side_by_side(*metrics),
        "weights": compare_weights(first, second) if first and second else None,
    }


def compare_weights(a: TensorFile, b: TensorFile) -> Json:
    """A WeightsComparison: for each tensor of either whether it is equal, or by how much it is not."""
    names = dict.fromkeys([*a.tensors, *b.tensors, *a.aliases, *b.aliases])
    tensors = [_compare_tensor(name, a, b) for name in names]
    return {"equal": all(each["verdict"] == "equal" for each in tensors), "tensors": tensors}


def _compare_tensor(name: str, a: TensorFile, b: TensorFile) -> Json:
    first, second = (file.find(name) if name in file.tensors or name in file.aliases else None for file in (a, b))
    difference: float | None = None
    if first is None or second is None:
        verdict = "only-b" if first is None else "only-a"
    elif first.shape != second.shape:
        verdict = "shape"
    else:
        pairs = zip(a.blocks(first), b.blocks(second), strict=True)
        difference = max((_largest_difference(*pair) for pair in pairs), default=0.0)
        verdict = "equal" if difference == 0 and first.type == second.type else "differs"
    return {
        "name": name,
        "verdict": verdict,
        "max_difference": difference,
        "a_shape": list(first.shape) if first else None,
        "b_shape": list(second.shape) if second else None,
        "a_dtype": first.dtype if first else None,
        "b_dtype": second.dtype if second else None,
    }


def _largest_difference(a: Any, b: Any) -> float:
    """Of two arrays of one shape; what is NaN in both is equal, in one of them infinitely different."""
    import numpy as np

    first, second = a.astype(np.float64), b.astype(np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        distances = np.abs(first - second)[~same]
    return float(np.nan_to_num(distances, nan=np.inf, posinf=np.inf).max())


def _weights(database: Database, job_id: int, which: str) -> tuple[Json | None, TensorFile | None]:
    try:
        return open_weights(database, job_id, which)
    except NotFound:
        return None, None


def _metrics(database: Database, job: Mapping[Any, Any]) -> dict[str, Any]:
    """The numbers of a job's result, or the latest of its tests while there is none."""
    if job["result_json"] is None:
        curves = [curve for curve in load_curves(database, [job["id"]]) if curve["split"] == "test"]
        return {curve["name"]: curve["points"][-1][2] for curve in curves}
    return {
        name: value
        for name, value in _flat(json.loads(job["result_json"])).items()
        if isinstance(value, int | float) and not name.startswith("per_class.")
    }


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Json]:
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in dict.fromkeys([*a, *b])]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training": {"lr": 0.1}} as {"training.lr": 0.1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif prefix or name not in NOT_COMPARED:
            found[f"{prefix}{name}"] = value
    return found
