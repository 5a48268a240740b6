"""submitit: a function, in a process that its local executor starts. Run by the Python of submitit's environment.

`python -m benchmarks.peers.submitit_line FOLDER` answers `api` with the seconds from submitting to the function's first
line.
"""

from __future__ import annotations

import sys
import time

import submitit  # type: ignore[import-not-found]  # of its own environment

from .answers import answer_all


def measure(folder: str) -> float:
    """Submit once, and wait for the end."""
    executor = submitit.LocalExecutor(folder)
    begin = time.time()
    return float(executor.submit(time.time).result()) - begin


if __name__ == "__main__":
    answer_all(lambda _how: measure(sys.argv[1]))
