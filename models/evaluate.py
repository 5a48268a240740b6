"""`python -P -m dljobs.models.evaluate REQUEST.json`: evaluate one state_dict in a process of its own.

It owns the request and the answer: one JSON object on stdout, everything else that is printed on stderr. So a client
without torch in its own process can evaluate, and it knows nothing of queue or database: the caller gives it a file.

The request: {model, model_options, data, data_options, loss, data_dir, state_dict: path, device: "cpu"|"cuda"}.
The answer: {loss, num_samples, accuracy, per_class, confusion, seconds} (regression has neither of the three about
classes), or {"error": {type, message, hint}} and exit status 1.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from dljobs.errors import DljobsError, UsageError

from .build import build_model
from .data import load_data
from .evaluation import shard_indices, tally
from .losses import find_loss
from .weights import load_weights

REQUIRED = ("model", "data", "loss", "data_dir", "state_dict")


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Load data, model and weights, and evaluate on the whole test split. `seconds` is the evaluation's own time.

    Raises:
        DljobsError: the request, the data or the state_dict is not as it must be.
    """
    missing = [key for key in REQUIRED if not request.get(key)]
    if missing:
        raise UsageError(f"the request lacks {missing[0]!r}")
    device = request.get("device", "cpu")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"the device is 'cpu' or 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DljobsError("no CUDA device can be used here", hint="evaluate with the device 'cpu'")
    loss = find_loss(request["loss"])
    data = load_data(request["data"], request.get("data_options") or {}, Path(request["data_dir"]))
    model = build_model(request["model"], request.get("model_options") or {}, data)
    load_weights(model, Path(request["state_dict"]))
    model.to(device)
    started = time.perf_counter()
    counted = tally(model, data.test, shard_indices(len(data.test), 0, 1), loss, data, device)
    answer = counted.result()
    if data.num_classes is not None:
        answer["confusion"] = counted.confusion()
    return {**answer, "seconds": round(time.perf_counter() - started, 6)}


def main(arguments: list[str]) -> int:
    """Read the request, write the answer to stdout, and return the exit status."""
    # What a dataset or a model prints must not get in front of the one JSON object.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = evaluate(_read_request(arguments))
        except Exception as error:
            if not isinstance(error, DljobsError):
                traceback.print_exc()
            hint = error.hint if isinstance(error, DljobsError) else ""
            answer = {"error": {"type": type(error).__name__, "message": str(error), "hint": hint}}
    print(json.dumps(answer, allow_nan=False))
    return 1 if "error" in answer else 0


def _read_request(arguments: list[str]) -> dict[str, Any]:
    if len(arguments) != 1:
        raise UsageError("usage: python -P -m dljobs.models.evaluate REQUEST.json")
    try:
        request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the request {arguments[0]}: {error}") from error
    if not isinstance(request, dict):
        raise UsageError("the request must be a JSON object")
    return request


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
