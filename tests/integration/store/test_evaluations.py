"""Evaluations: one row each time weights were measured, which outlives the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dljobs.errors import NotFound
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.database import Database
from dljobs.service.evaluations import NewEvaluation, add_evaluation, add_of_job, list_evaluations
from dljobs.service.runs import RunKey

from .rows import job_row, new_job, start, submit

RESULT = {"loss": float("nan"), "accuracy": 0.5, "per_class": {"a": None}, "confusion": [[1, 0], [0, 1]]}


def store(database: Database, key: RunKey, folder: Path, epoch: int = 3) -> int:
    path = folder / "weights"
    path.write_bytes(b"weights")
    return ArtifactStore(database).put(key, Description("state_dict", f"epoch-{epoch}", epoch=epoch), path)


def test_a_row_says_what_was_measured_on_what(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    artifact_id = store(database, key, tmp_path)
    new = NewEvaluation(artifact_id, "digits", {"seed": 1}, RESULT, "ada")
    with database.write() as connection:
        first = add_evaluation(connection, new)
        add_evaluation(connection, dataclasses.replace(new, data="mnist"))
    with database.read() as connection:
        rows = list_evaluations(connection, job_id)
        assert list_evaluations(connection, job_id + 1) == []
    assert [(row["name"], row["run_number"], row["epoch"], row["data"]) for row in rows] == [
        ("epoch-3", 1, 3, "digits"),
        ("epoch-3", 1, 3, "mnist"),
    ]
    assert dict(rows[0]) == dict(first)
    assert json.loads(rows[0]["data_options_json"]) == {"seed": 1}
    kept = json.loads(rows[0]["result_json"], parse_constant=pytest.fail)
    assert kept == {"loss": None, "accuracy": 0.5, "per_class": {"a": None}}


def test_it_outlives_the_weights(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    artifact_id = store(database, key, tmp_path)
    new = NewEvaluation(artifact_id, "digits", {}, RESULT, "ada")
    with database.write() as connection:
        add_evaluation(connection, new)
    ArtifactStore(database).drop(key, [artifact_id])
    with database.read() as connection:
        [row] = list_evaluations(connection, job_id)
    assert (row["artifact_id"], row["name"]) == (None, "epoch-3")
    with pytest.raises(NotFound), database.write() as connection:
        add_evaluation(connection, new)


def test_what_a_job_has_found_belongs_to_the_weights_it_measured(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    artifact_id = store(database, key, tmp_path)
    spec = dataclasses.replace(new_job().spec, kind="evaluate", artifact_id=artifact_id)
    evaluating = submit(database, spec=spec, user="bob")
    with database.write() as connection:
        add_of_job(connection, job_row(database, evaluating), RESULT)
        add_of_job(connection, job_row(database, job_id), RESULT)  # it trained: nothing is recorded
    with database.read() as connection:
        [row] = list_evaluations(connection, job_id)
        assert list_evaluations(connection, evaluating) == []
    assert (row["by_job_id"], row["user"], row["artifact_id"]) == (evaluating, "bob", artifact_id)
    ArtifactStore(database).drop(key, [artifact_id])
    late = submit(database, spec=spec)
    with database.write() as connection:
        add_of_job(connection, job_row(database, late), RESULT)  # the weights are gone: the job keeps its result
    with database.read() as connection:
        assert len(list_evaluations(connection, job_id)) == 1
