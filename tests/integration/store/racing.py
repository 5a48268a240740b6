"""Races between real processes: the same function in many of them, let go at the same moment.

`race` starts one clean interpreter (`python -m tests.integration.store.racing`), which forks the racers: no database
connection of the test is ever carried over a fork. Arguments and results are JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def race(function: Callable[..., Any], *arguments: tuple[Any, ...], timeout_s: float = 60.0) -> list[Any]:
    """Call the module-level `function` in one process for each tuple of arguments; returns what each returned.

    Raises:
        AssertionError: one of them raised; the message holds its traceback.
    """
    request = {"function": f"{function.__module__}:{function.__qualname__}", "arguments": arguments}
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as starter:
        try:
            answer, _ = starter.communicate(json.dumps(request), timeout=timeout_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(starter.pid, signal.SIGKILL)
    results = json.loads(answer)
    broken = [result["error"] for result in results if "error" in result]
    assert not broken, "\n".join(broken)
    return [result["value"] for result in results]


def _main() -> None:
    request = json.load(sys.stdin)
    module, name = request["function"].split(":")
    function = getattr(importlib.import_module(module), name)
    gate_out, gate_in = os.pipe()
    outputs = []
    for arguments in request["arguments"]:
        result_out, result_in = os.pipe()
        if os.fork() == 0:
            os.close(gate_in)
            os.close(result_out)
            os.read(gate_out, 1)  # returns when the gate closes, in all of them at once
            _run(function, arguments, result_in)
        os.close(result_in)
        outputs.append(result_out)
    os.close(gate_in)
    answers = []
    for result_out in outputs:
        with os.fdopen(result_out) as file:
            answers.append(json.loads(file.read() or '{"error": "a racer died without a word"}'))
    json.dump(answers, sys.stdout)


def _run(function: Callable[..., Any], arguments: list[Any], result_in: int) -> None:
    try:
        answer = {"value": function(*arguments)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    with os.fdopen(result_in, "w") as file:
        json.dump(answer, file)
    os._exit(0)


if __name__ == "__main__":
    _main()
