"""Weights: which of a job's state_dicts is meant by `best`, `last` or an epoch, and their way out into a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError, NotFound, UsageError

from . import artifacts, jobs
from .artifacts import ArtifactStore
from .database import Database
from .spec import JobSpec
from .views import Json, artifact_view

Artifact = Mapping[Any, Any]


def choose_state_dict(rows: Sequence[Artifact], which: str, spec: JobSpec) -> Artifact:
    """The state_dict that `which` means.

    Args:
        rows: a job's complete state_dicts, as `artifacts.list_artifacts` gives them.
        which: "last" (the newest), "best" (by the spec's metric and goal; of equals the later one), or an epoch.

    Raises:
        NotFound: there is none; the hint says which there are.
        UsageError: `which` is none of these.
    """
    if which not in ("best", "last") and not (which.isascii() and which.isdigit()):
        raise UsageError(f"{which!r} names no checkpoint", "write best, last or the number of an epoch")
    if not rows:
        raise NotFound("there are no weights yet", "they are stored at the end of each epoch")
    in_order = sorted(rows, key=_age)
    if which == "last":
        return in_order[-1]
    if which == "best":
        return best_of(in_order, spec)
    of_epoch = [row for row in in_order if row["epoch"] == int(which)]
    if not of_epoch:
        epochs = ", ".join(str(epoch) for epoch in sorted({row["epoch"] for row in rows}))
        raise NotFound(f"there are no weights of epoch {which}", f"there are those of {epochs}")
    return of_epoch[-1]


def best_of(rows: Sequence[Artifact], spec: JobSpec) -> Artifact:
    """The artifact with the best value of the spec's metric, the later one of equals; one without a value is worst."""

    def merit(row: Artifact) -> tuple[float, tuple[int, int, int]]:
        value = json.loads(row["metrics_json"]).get(spec.metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf, _age(row)
        return (value if spec.goal == "max" else -value), _age(row)

    return max(rows, key=merit)


def find_state_dict(database: Database, job_id: int, which: str) -> tuple[JobSpec, Json]:
    """The spec of a job and the Artifact that holds the weights `which` means.

    Raises:
        NotFound, UsageError: as `choose_state_dict`.
    """
    with database.read() as connection:
        spec = JobSpec.from_json(jobs.get_job(connection, job_id)["spec_json"])
        rows = artifacts.list_artifacts(connection, job_id, kind="state_dict")
    if spec.kind != "train":
        raise NotFound(
            f"job {job_id} does not train: it has no weights of its own", "name the job whose weights it has"
        )
    try:
        return spec, artifact_view(choose_state_dict(rows, which, spec))
    except NotFound as error:
        raise NotFound(f"job {job_id}: {error.message}", error.hint) from None


def export(database: Database, job_id: int, which: str, target: Path) -> Json:
    """Write a state_dict to `target` as safetensors; the file appears whole or not at all. Returns the Artifact.

    Raises:
        NotFound: the job has no such weights.
        CorruptArtifact: the stored bytes do not match their digest.
        DljobsError: the file cannot be written.
    """
    _spec, artifact = find_state_dict(database, job_id, which)
    if target.is_dir():
        raise UsageError(f"{target} is a folder", f"name a file, such as {target / 'model.safetensors'}")
    try:
        ArtifactStore(database).fetch(artifact["id"], target)
    except OSError as error:
        raise DljobsError(f"cannot write {target}: {error.strerror}") from error
    return artifact


def _age(row: Artifact) -> tuple[int, int, int]:
    return row["run_number"], row["step"], row["id"]
