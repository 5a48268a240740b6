"""The task "evaluate" of a client's child process: measure a trained model on the test data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .evaluation import shard_indices, tally
from .fit import parity
from .trained import load_trained


def evaluate(request: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate on the whole test split, which `load_trained` finds by the request.

    Returns:
        What `Tally.result` says, `seconds`, the evaluation's own time, and for classes `confusion`, for values
        `parity`: {true, predicted} of the first test samples.
    """
    trained = load_trained(request)
    data = trained.data
    started = time.perf_counter()
    indices = shard_indices(len(data.test), 0, 1)
    counted = tally(trained.model, data.test, indices, trained.loss, data, trained.device)
    answer = counted.result()
    answer["seconds"] = round(time.perf_counter() - started, 6)
    if data.num_classes is not None:
        return {**answer, "confusion": counted.confusion()}
    return {**answer, "parity": parity(trained.model, data, trained.device)}
