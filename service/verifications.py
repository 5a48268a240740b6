"""Verifications: whether training again from a stored checkpoint gave the weights that were stored later.

It owns which checkpoint and weights a replay goes between, the job that does it, and the row that keeps the verdict.
`workers/replay.py` does the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from dljobs.errors import DljobsError, NotFound

from .artifacts import get_artifact, list_artifacts
from .clock import now
from .continuation import choose_checkpoint, newest_first, split_reference
from .database import Database
from .jobs import get_job
from .json_text import to_json
from .names import resolve_job
from .new_jobs import Beginning, NewJob
from .runs import get_run, list_runs
from .spec import JobSpec
from .tables import verifications

Row = Mapping[Any, Any]


def prepare_verification(database: Database, reference: str, max_steps: int | None, user: str) -> NewJob:
    """A job that replays a run from one of its checkpoints (`12`, `@:step-40`) to weights that it stored later.

    Args:
        max_steps: replay at most so many steps, but as many as possible; None: to the next stored weights.

    Raises:
        NotFound: nothing was stored that a replay could go between.
        DljobsError: the job does not train.
    """
    job_text, _ = split_reference(reference)
    named = reference.partition(":")[2] or None
    with database.read() as connection:
        job = get_job(connection, resolve_job(connection, job_text))
        checkpoints = list_artifacts(connection, job["id"], kind="checkpoint")
        stored = [*checkpoints, *list_artifacts(connection, job["id"], kind="state_dict")]
        num_devices = {run["number"]: run["num_devices"] for run in list_runs(connection, [job["id"]])}
    spec = JobSpec.from_json(job["spec_json"])
    if spec.kind != "train":
        raise DljobsError(f"job {job['id']} does not train: there is nothing to replay")
    try:
        first, last = choose_ends(checkpoints, stored, named, max_steps)
    except NotFound as error:
        raise NotFound(f"job {job['id']}: {error.message}", error.hint) from None
    return NewJob(
        # As the run had it, which may have got fewer devices than the job may take: other ranks add up otherwise.
        spec=dataclasses.replace(
            spec, kind="verify", artifact_id=last["id"], num_devices=num_devices[first["run_number"]]
        ),
        user=user,
        name=f"verify of {job['id']}",
        priority=job["priority"],
        beginning=Beginning(job["id"], first["id"]),
        share_percent=job["share_percent"],
        num_nodes=job["num_nodes"],
        may_spread=bool(job["may_spread"]),
    )


def choose_ends(
    checkpoints: Sequence[Row], stored: Sequence[Row], named: str | None, max_steps: int | None
) -> tuple[Row, Row]:
    """The checkpoint to begin with, and the weights of the same run to arrive at.

    Args:
        stored: checkpoints and state_dicts.
        named: which checkpoint; None: the newest that something was stored after.

    Raises:
        NotFound: there are no two such; the hint says what there is.
    """
    firsts = newest_first(checkpoints) if named is None else [choose_checkpoint(checkpoints, named)]
    nearest = None
    for first in firsts:
        later = [row for row in stored if row["run_number"] == first["run_number"] and row["step"] > first["step"]]
        later.sort(key=lambda row: row["step"])
        nearest = later[0]["step"] - first["step"] if later else nearest
        within = [row for row in later if max_steps is not None and row["step"] - first["step"] <= max_steps]
        if within:
            return first, within[-1]
        if later and max_steps is None:
            return first, later[0]
    if nearest is not None:
        raise NotFound(f"no weights were stored within {max_steps} steps of it", f"--steps {nearest} reaches the next")
    what = "any checkpoint" if named is None else f"checkpoint {named}"
    raise NotFound(
        f"nothing was stored after {what} in the same run: there is nothing to compare with",
        "`--set keep_checkpoints_every=1` keeps the checkpoint of each epoch",
    )


def add_of_job(connection: Connection, job: Row, result: Mapping[str, Any]) -> None:
    """Record the verdict of a job (a row) of kind "verify"; the results of other jobs are their own.

    What it compared with is there: retention keeps what a job that runs needs.
    """
    spec = JobSpec.from_json(job["spec_json"])
    if spec.kind != "verify" or spec.artifact_id is None:
        return
    run = get_run(connection, get_artifact(connection, spec.artifact_id)["run_id"])
    values = {
        "job_id": job["resumed_from_job_id"],
        "by_job_id": job["id"],
        "run_number": run["number"],
        "from_step": result["from_step"],
        "to_step": result["to_step"],
        "is_exact": int(result["is_exact"]),
        "result_json": to_json(result),
        "user": job["user"],
    }
    connection.execute(insert(verifications).values(created_at=now(), **values))


def list_verifications(connection: Connection, job_id: int) -> list[RowMapping]:
    """All replays of a job's training, oldest first."""
    query = select(verifications).where(verifications.c.job_id == job_id).order_by(verifications.c.id)
    return list(connection.execute(query).mappings())
