"""The task "evaluate" of a client's child process: measure a trained model on the test data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .evaluation import shard_indices, tally
from .trained import load_trained


def evaluate(request: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate on the whole test split, which `load_trained` finds by the request.

    Returns:
        What `Tally.result` says, for classes also `confusion`, and `seconds`, the evaluation's own time.
    """
    trained = load_trained(request)
    data = trained.data
    started = time.perf_counter()
    indices = shard_indices(len(data.test), 0, 1)
    counted = tally(trained.model, data.test, indices, trained.loss, data, trained.device)
    answer = counted.result()
    if data.num_classes is not None:
        answer["confusion"] = counted.confusion()
    return {**answer, "seconds": round(time.perf_counter() - started, 6)}
