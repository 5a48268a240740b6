"""Retention: which checkpoints and state_dicts of a job are worth their room, over all its runs.

Kept of both are the newest, the best, and every Nth epoch's where the job says so. Pure functions of rows; the store
does the deleting.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .spec import JobSpec
from .weights import best_of

# The last one, and one to walk back to.
NEWEST_CHECKPOINTS = 2
# While a job's state_dicts are this small together, `keep_every=0` keeps them all.
SMALL_BYTES = 64 * 1024 * 1024

Artifact = Mapping[Any, Any]


def obsolete(rows: Sequence[Artifact], kind: str, spec: JobSpec, wanted: Collection[int] = ()) -> list[int]:
    """The ids of those that nobody will ask for any more.

    Args:
        rows: all complete artifacts of this kind that the job has, as `artifacts.list_artifacts` gives them.
        wanted: ids that jobs in the queue begin with.
    """
    in_order = sorted(rows, key=lambda row: (row["run_number"], row["step"], row["id"]))
    if kind == "checkpoint":
        kept = _kept_checkpoints(in_order, spec)
    elif kind == "state_dict":
        kept = _kept_state_dicts(in_order, spec)
    else:
        return []
    return [row["id"] for row in in_order if row["id"] not in kept and row["id"] not in wanted]


def is_kept_for_good(epoch: int, every: int, *, best: bool, ends_epoch: bool) -> bool:
    """Whether a checkpoint is worth more than that it is the newest."""
    return best or bool(every and ends_epoch and epoch % every == 0)


def _kept_checkpoints(in_order: Sequence[Artifact], spec: JobSpec) -> set[int]:
    every = spec.training.keep_checkpoints_every
    best = [row["id"] for row in in_order if row["best"]][-1:]
    newest = [row["id"] for row in in_order[-NEWEST_CHECKPOINTS:]]
    nth = [
        row["id"]
        for row in in_order
        if is_kept_for_good(row["epoch"], every, best=False, ends_epoch=bool(json.loads(row["metrics_json"])))
    ]
    return {*best, *newest, *nth}


def _kept_state_dicts(in_order: Sequence[Artifact], spec: JobSpec) -> set[int]:
    every = spec.training.keep_every
    if not in_order or (every == 0 and sum(row["size_bytes"] for row in in_order) <= SMALL_BYTES):
        return {row["id"] for row in in_order}
    nth = [row["id"] for row in in_order if every and row["epoch"] % every == 0]
    return {in_order[-1]["id"], best_of(in_order, spec)["id"], *nth}
