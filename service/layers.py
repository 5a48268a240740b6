"""Layers of a model of the zoo, with their shapes: only torch knows them, so a child process is asked."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .child import ask, require_torch
from .spec import JobSpec
from .views import Json


def load_layers(spec: JobSpec) -> Json:
    """The Layers of the model that this spec would train.

    Raises:
        DljobsError: torch is not installed here, or the model cannot be built.
    """
    require_torch("listing the layers")
    request = {
        "model": spec.model,
        "model_options": spec.model_options,
        "data": spec.data,
        "data_options": spec.data_options,
    }
    with tempfile.TemporaryDirectory(prefix="dljobs-layers-") as folder:
        return ask("layers", request, Path(folder), what="listing the layers")
