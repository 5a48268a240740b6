"""Evaluation of stored weights: here in a child process, or on a worker as a job of its own. Both leave a record."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljobs.errors import NotFound, UsageError
from dljobs.models.catalog import LOSS_TASKS

from . import jobs
from .artifacts import ArtifactStore, list_artifacts
from .child import ask, require_torch
from .choosing import PATH_OPTION, TABLE, TEST_OPTION, ChosenData, absolute_path, choose_data
from .database import Database
from .doorbell import Doorbell
from .evaluations import NewEvaluation, add_evaluation
from .new_jobs import NewJob
from .settings import Settings
from .source_files import extract_all
from .spec import JobSpec
from .submission import Submitted, enqueue, require
from .views import Json
from .weights import find_state_dict

if TYPE_CHECKING:
    from .freezing import Frozen

# What images have to have in common to be seen by the same model.
IMAGE_OPTIONS = ("image_size", "channels")


def evaluate_here(
    database: Database, settings: Settings, job_id: int, *, which: str, data: str | None, device: str
) -> Json:
    """Load a job's weights from the store and measure them; returns an Evaluation, of which a record is kept.

    Args:
        which: best, last or an epoch.
        data: another dataset than the job's own.
        device: "cpu" or "cuda".

    Raises:
        NotFound: there are no such weights.
        DljobsError: torch is not installed, or the evaluation itself failed.
    """
    _spec, artifact = find_state_dict(database, job_id, which)
    require_torch("evaluating", f"let a worker do it: dljobs eval {job_id} --queue")
    evaluated = _prepare(database, settings, job_id, artifact["id"], data)
    spec = evaluated.spec
    with tempfile.TemporaryDirectory(prefix="dljobs-eval-") as folder:
        request = trained_request(database, settings, spec, artifact["id"], Path(folder), device, evaluated.sources)
        result = ask("evaluate", request, Path(folder), what="the evaluation")
    new = NewEvaluation(artifact["id"], spec.data, spec.data_options, result, settings.user)
    with database.write() as connection:
        row = add_evaluation(connection, new)
    about = {"id": row["id"], "job_id": job_id, "created_at": row["created_at"]}
    return {**about, "artifact": artifact, "data": spec.data, "result": result}


def trained_request(
    database: Database,
    settings: Settings,
    spec: JobSpec,
    artifact_id: int,
    folder: Path,
    device: str,
    given: Sequence[Frozen] = (),
) -> dict[str, Any]:
    """What a child process needs to load a trained model (`dljobs.models.trained`).

    The weights, and the frozen files of a model of one's own, are put in `folder`; `given` are files that are not in
    the database.
    """
    weights, sources = folder / "state_dict.safetensors", folder / "sources"
    ArtifactStore(database).fetch(artifact_id, weights, durable=False)
    extract_all(database, spec, sources, given)
    return {
        "model": spec.model_at(sources),
        "model_options": spec.model_options,
        "data": spec.data_at(sources),
        "data_options": spec.data_options,
        "loss": spec.loss,
        "data_dir": str(settings.data_dir),
        "state_dict": str(weights),
        "device": device,
    }


def evaluate_on_worker(
    database: Database, doorbell: Doorbell, settings: Settings, job_id: int, *, which: str, data: str | None
) -> Submitted:
    """Queue the evaluation as a job of its own.

    Raises:
        NotFound: there are no such weights.
    """
    _spec, artifact = find_state_dict(database, job_id, which)
    return enqueue(database, doorbell, _prepare(database, settings, job_id, artifact["id"], data))


def stored_result(database: Database, job_id: int) -> Json:
    """All that a job of kind "evaluate" has found, with the confusion matrix.

    Raises:
        NotFound: it has stored no result.
    """
    with database.read() as connection:
        found = list_artifacts(connection, job_id, kind="evaluation")
    if not found:
        raise NotFound(f"job {job_id} has stored no evaluation", f"`dljobs why {job_id}` says why")
    result: Json = json.loads(b"".join(ArtifactStore(database).chunks(found[-1]["id"])))
    return result


def require_classes(database: Database, job_id: int) -> None:
    """Make sure that a job has learned classes, of which there is a confusion matrix.

    Raises:
        UsageError: it has learned values.
    """
    with database.read() as connection:
        spec = JobSpec.from_json(jobs.get_job(connection, job_id)["spec_json"])
    if LOSS_TASKS[spec.loss] != "classification":
        raise UsageError(
            f"job {job_id} has learned values, and a confusion matrix is of classes",
            "leave --confusion out; --plot FILE draws predicted values over true ones",
        )


def _prepare(database: Database, settings: Settings, job_id: int, artifact_id: int, data: str | None) -> NewJob:
    with database.read() as connection:
        job = jobs.get_job(connection, job_id)
    return prepare_evaluation(job, artifact_id, data, settings.user)


def prepare_evaluation(job: Mapping[Any, Any], artifact_id: int, data_name: str | None, user: str) -> NewJob:
    """A job of one device that evaluates a stored state_dict of `job` (a row) on a worker."""
    trained = JobSpec.from_json(job["spec_json"])
    name, options, digest = trained.data, trained.data_options, trained.data_source
    sources: tuple[Frozen, ...] = ()
    if data_name is not None and data_name != trained.data:
        chosen = choose_data(data_name)
        name, digest = chosen.name, chosen.digest
        options = _other_options(trained, chosen)
        absolute_path(chosen.entry, options)
        require(chosen.entry.name, chosen.entry.options, options)
        sources = (chosen.source,) if chosen.source is not None else ()
    spec = dataclasses.replace(
        trained,
        kind="evaluate",
        artifact_id=artifact_id,
        strategy="single",
        num_devices=1,
        data=name,
        data_options=options,
        data_source=digest,
    )
    return NewJob(spec=spec, user=user, name=f"eval of {job['id']}", sources=sources)


def _other_options(trained: JobSpec, chosen: ChosenData) -> dict[str, Any]:
    """The options of data that a model is evaluated on and was not trained on."""
    if chosen.name == trained.data == TABLE:
        # Columns, classes and scales are those of the table that was learned from.
        return {**trained.data_options, TEST_OPTION: chosen.options[PATH_OPTION]}
    defaults = {key: option.default for key, option in chosen.entry.options.items()}
    same = {key: trained.data_options[key] for key in IMAGE_OPTIONS if key in defaults and key in trained.data_options}
    return {**defaults, **same, **chosen.options}
