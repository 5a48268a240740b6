"""A child process for what needs torch: it works for this one, is given files, and holds no credentials.

It owns how the child is started and what its answer means; what it can do is listed in `dljobs.models.child`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dljobs.errors import DljobsError, ExitCode, UsageError

from .settings import SECRET_VARIABLES
from .views import Json

CHILD_MODULE = "dljobs.models.child"


def has_torch() -> bool:
    """Whether a child process here could do anything; torch itself is not loaded."""
    return importlib.util.find_spec("torch") is not None


def require_torch(what: str, instead: str = "") -> None:
    """Make sure that torch is installed here.

    Args:
        what: what needs it, as the subject of a sentence: "evaluating".
        instead: what to do without it.

    Raises:
        DljobsError: it is not; the hint says how to get it.
    """
    if not has_torch():
        hint = "pip install 'dljobs[worker]'" + (f", or {instead}" if instead else "")
        raise DljobsError(f"torch is not installed here, and {what} needs it", hint)


def ask(task: str, request: dict[str, Any], folder: Path, *, what: str) -> Json:
    """Let a child process perform a task and return its answer.

    Args:
        task: one that `dljobs.models.child` knows.
        folder: where the request is written.
        what: the task as the subject of a sentence: "the evaluation".

    Raises:
        UsageError: the child was given what cannot be right.
        DljobsError: the task failed. In both cases the message is the child's.
    """
    path = folder / "request.json"
    path.write_text(json.dumps({"task": task, **request}))
    # The child runs the zoo's code: like a rank, it gets no credentials.
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    command = [sys.executable, "-P", "-m", CHILD_MODULE, str(path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False, text=True)
    try:
        answer: Json = json.loads(child.stdout)
    except json.JSONDecodeError:
        raise DljobsError(f"{what} ended with exit code {child.returncode} and no answer") from None
    if "error" in answer:
        error = answer["error"]
        words, hint = error.get("message") or error.get("type"), error.get("hint") or ""
        if child.returncode == ExitCode.USAGE:
            raise UsageError(words, hint)
        raise DljobsError(f"{what} failed: {words}", hint)
    return answer
