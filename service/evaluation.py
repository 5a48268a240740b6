"""Evaluation of stored weights on this machine: in a child process, because the service itself knows no torch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError

from . import jobs
from .artifacts import ArtifactStore
from .database import Database
from .doorbell import Doorbell
from .settings import SECRET_VARIABLES, Settings
from .submission import Submitted, enqueue, prepare_evaluation
from .views import Json
from .weights import find_state_dict

EVALUATE_MODULE = "dljobs.models.evaluate"


def evaluate_here(
    database: Database, settings: Settings, job_id: int, *, which: str, data: str | None, device: str
) -> Json:
    """Load a job's weights from the store and measure them; returns an Evaluation.

    Args:
        which: best, last or an epoch.
        data: another dataset than the job's own.
        device: "cpu" or "cuda".

    Raises:
        NotFound: there are no such weights.
        DljobsError: torch is not installed, or the evaluation itself failed.
    """
    _spec, artifact = find_state_dict(database, job_id, which)
    if importlib.util.find_spec("torch") is None:
        raise DljobsError(
            "torch is not installed here, and evaluating needs it",
            f"pip install 'dljobs[worker]', or let a worker do it: dljobs eval {job_id} --queue",
        )
    spec = _prepare(database, settings, job_id, artifact["id"], data).spec
    with tempfile.TemporaryDirectory(prefix="dljobs-eval-") as folder:
        weights = Path(folder) / "state_dict.safetensors"
        ArtifactStore(database).fetch(artifact["id"], weights)
        request = {
            "model": spec.model,
            "model_options": spec.model_options,
            "data": spec.data,
            "data_options": spec.data_options,
            "loss": spec.loss,
            "data_dir": str(settings.data_dir),
            "state_dict": str(weights),
            "device": device,
        }
        result = _run_child(Path(folder) / "request.json", request)
    return {"job_id": job_id, "artifact": artifact, "data": spec.data, "result": result}


def evaluate_on_worker(
    database: Database, doorbell: Doorbell, settings: Settings, job_id: int, *, which: str, data: str | None
) -> Submitted:
    """Queue the evaluation as a job of its own.

    Raises:
        NotFound: there are no such weights.
    """
    _spec, artifact = find_state_dict(database, job_id, which)
    return enqueue(database, doorbell, settings, _prepare(database, settings, job_id, artifact["id"], data))


def _prepare(database: Database, settings: Settings, job_id: int, artifact_id: int, data: str | None) -> jobs.NewJob:
    with database.read() as connection:
        job = jobs.get_job(connection, job_id)
    return prepare_evaluation(job, artifact_id, data, settings.user)


def _run_child(path: Path, request: dict[str, Any]) -> Json:
    path.write_text(json.dumps(request))
    # The child runs the zoo's code: like a rank, it gets no credentials.
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    command = [sys.executable, "-P", "-m", EVALUATE_MODULE, str(path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False, text=True)
    try:
        answer = json.loads(child.stdout)
    except json.JSONDecodeError:
        raise DljobsError(f"the evaluation ended with exit code {child.returncode} and no answer") from None
    if "error" in answer:
        error = answer["error"]
        raise DljobsError(
            f"the evaluation failed: {error.get('message') or error.get('type')}", error.get("hint") or ""
        )
    result: Json = answer
    return result
