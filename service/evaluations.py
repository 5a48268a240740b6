"""Evaluations: what measuring stored weights on some data gave, one row each time, kept as long as the job.

A row names its artifact also by words, because the artifact itself may be dropped later to make room.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from dljobs.errors import NotFound

from .artifacts import get_artifact
from .clock import now
from .json_text import to_json
from .runs import get_run
from .spec import JobSpec
from .tables import evaluations

# Too large to lie in every listing: it is printed, drawn, or kept as an artifact of the job that evaluated.
NOT_KEPT = ("confusion", "parity")


@dataclass(frozen=True)
class NewEvaluation:
    """What a row says besides where and when."""

    artifact_id: int
    data: str
    data_options: Mapping[str, Any]
    result: Mapping[str, Any]
    user: str
    by_job_id: int | None = None  # the job that evaluated; None: it was done where the client is


def add_evaluation(connection: Connection, new: NewEvaluation) -> RowMapping:
    """Insert a row and return it.

    Raises:
        NotFound: the artifact is gone.
    """
    artifact = get_artifact(connection, new.artifact_id)
    run = get_run(connection, artifact["run_id"])
    values = {
        "job_id": run["job_id"],
        "artifact_id": new.artifact_id,
        "run_number": run["number"],
        "name": artifact["name"],
        "epoch": artifact["epoch"],
        "data": new.data,
        "data_options_json": to_json(dict(sorted(new.data_options.items()))),
        "result_json": to_json({name: value for name, value in new.result.items() if name not in NOT_KEPT}),
        "user": new.user,
        "by_job_id": new.by_job_id,
    }
    made = insert(evaluations).values(created_at=now(), **values).returning(evaluations)
    return connection.execute(made).mappings().one()


def list_evaluations(connection: Connection, job_id: int) -> list[RowMapping]:
    """All evaluations of a job's weights, oldest first."""
    query = select(evaluations).where(evaluations.c.job_id == job_id).order_by(evaluations.c.id)
    return list(connection.execute(query).mappings())


def add_of_job(connection: Connection, job: Mapping[Any, Any], result: Mapping[str, Any]) -> None:
    """Record what a job (a row) of kind "evaluate" has found; the results of other jobs are their own."""
    spec = JobSpec.from_json(job["spec_json"])
    if spec.kind != "evaluate" or spec.artifact_id is None:
        return
    with suppress(NotFound):  # the weights were dropped while they were measured
        add_evaluation(
            connection,
            NewEvaluation(spec.artifact_id, spec.data, spec.data_options, result, job["user"], by_job_id=job["id"]),
        )
