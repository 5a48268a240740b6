"""`python -P -m dljobs.models.child REQUEST.json`: the zoo at work for a client that has no torch in its own process.

It owns the protocol: the request is a JSON object with a `task`; the answer is one JSON object on stdout, whatever a
model or a dataset prints goes to stderr. An error is {"error": {type, message, hint}} and the exit status that this
error has on the command line. It knows
neither queue nor database and holds no credentials: the caller gives it files.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError, ExitCode, UnknownName, UsageError

from .catalog import resolve

# Each is a function from the request to the answer. They are named, because they import torch.
TASKS = {
    "evaluate": "dljobs.models.evaluate:evaluate",
    "fit": "dljobs.models.fit:fit",
    "layers": "dljobs.models.layers:layers",
    "predict": "dljobs.models.predict:predict",
}


def main(arguments: list[str]) -> int:
    """Read the request, write the answer to stdout, and return the exit status."""
    status = int(ExitCode.OK)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = _perform(_read_request(arguments))
        except Exception as error:
            if not isinstance(error, DljobsError):
                traceback.print_exc()
            hint = error.hint if isinstance(error, DljobsError) else ""
            status = int(error.exit_code if isinstance(error, DljobsError) else ExitCode.ERROR)
            answer = {"error": {"type": type(error).__name__, "message": str(error), "hint": hint}}
    print(json.dumps(_finite(answer), allow_nan=False))
    return status


def _perform(request: Mapping[str, Any]) -> dict[str, Any]:
    task = request.get("task")
    if task not in TASKS:
        raise UnknownName("task", str(task), TASKS)
    answer: dict[str, Any] = resolve(TASKS[task])(request)
    return answer


def _read_request(arguments: list[str]) -> dict[str, Any]:
    if len(arguments) != 1:
        raise UsageError("usage: python -P -m dljobs.models.child REQUEST.json")
    try:
        request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the request {arguments[0]}: {error}") from error
    if not isinstance(request, dict):
        raise UsageError("the request must be a JSON object")
    return request


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
