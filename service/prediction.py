"""Predictions: what the stored weights of a job say of some inputs, from a child process that has torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .child import ask, require_torch
from .database import Database
from .evaluation import trained_request
from .inputs import read_inputs
from .settings import Settings
from .spec import JobSpec
from .tensors import FileSource, TensorFile
from .views import Json
from .weights import find_state_dict

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Question:
    """What to predict for, and with which weights."""

    inputs: Sequence[str] = ()  # as `inputs.read_inputs` takes them, or
    test: str | None = None  # samples of the job's test data
    top: int = 1  # how many of the likeliest classes to name
    limit: int | None = None  # of the test samples only so many
    checkpoint: str = "best"  # best, last or an epoch
    device: str = "cpu"
    invert: bool = False  # exchange light and dark in images
    with_pixels: bool = False  # give the samples as images too


def predict(
    database: Database, settings: Settings, job_id: int, question: Question
) -> tuple[Json, NDArray[Any] | None]:
    """What a job's weights say of some samples.

    Returns:
        Predictions, and the samples as uint8 [n, height, width, 1 or 3], or None.

    Raises:
        NotFound: there are no such weights, or no such file.
        UsageError: inputs that the model cannot take.
        DljobsError: torch is not installed, or the child process failed.
    """
    spec, artifact = find_state_dict(database, job_id, question.checkpoint)
    wanted = read_inputs(question.inputs, question.test, _delimiter(spec))
    require_torch("predicting")
    with tempfile.TemporaryDirectory(prefix="dljobs-predict-") as place:
        folder = Path(place)
        pixels = folder / "pixels.safetensors"
        request = trained_request(database, settings, spec, artifact["id"], folder, question.device)
        request |= {
            **wanted,
            "top": question.top,
            "invert": question.invert,
            "limit": question.limit,
            "pixels": str(pixels) if question.with_pixels else None,
        }
        answer = ask("predict", request, folder, what="the prediction")
        images = None
        if question.with_pixels:
            file = TensorFile(FileSource(pixels))
            images = file.read(file.find("pixels"))
    predictions = [_prediction(each) for each in answer["predictions"]]
    found = {"job_id": job_id, "artifact": artifact, "data": spec.data, "preparation": answer["preparation"]}
    return {**found, "predictions": predictions}, images


def _delimiter(spec: JobSpec) -> str:
    """What stands between cells in tables like the one that was learned from."""
    given = str(spec.data_options["delimiter"]) if spec.data == "csv" else ","
    return "\t" if given == "tab" else given


def _prediction(said: Json) -> Json:
    """A Prediction: classes have `class`, `probability` and `top`, values have `values`; the others are null."""
    empty: Json = {"class": None, "probability": None, "top": None, "values": None}
    return {**empty, **said}
