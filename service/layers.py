"""Layers of a model of the zoo, with their shapes: only torch knows them, so a child process is asked."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .child import ask, require_torch
from .new_jobs import NewJob
from .source_archive import extract
from .views import Json


def load_layers(new: NewJob) -> Json:
    """The Layers of the model that this job would train; it need not be in the database.

    Raises:
        DljobsError: torch is not installed here, or the model cannot be built.
    """
    require_torch("listing the layers")
    spec = new.spec
    with tempfile.TemporaryDirectory(prefix="dljobs-layers-") as place:
        folder, sources = Path(place), Path(place) / "sources"
        for frozen in {each.digest: each for each in new.sources}.values():
            extract(frozen.archive, frozen.digest, sources / frozen.digest)
        request = {
            "model": spec.model_at(sources),
            "model_options": spec.model_options,
            "data": spec.data_at(sources),
            "data_options": spec.data_options,
        }
        return ask("layers", request, folder, what="listing the layers")
