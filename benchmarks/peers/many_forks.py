"""The physical floor of a no-op job: a process that has torch loaded forks one that does nothing, eight at a time.

`python -m benchmarks.peers.many_forks` reads a number of jobs from each line of its input, and answers
with the seconds.
"""

from __future__ import annotations

import os
import time

import torch  # noqa: F401  # what is loaded is what a fork copies

from .answers import answer_all

AT_ONCE = 8


def measure(num_jobs: int) -> float:
    """Seconds until all of them have ended."""
    begin, num_running = time.monotonic(), 0
    for _ in range(num_jobs):
        if num_running == AT_ONCE:
            os.wait()
            num_running -= 1
        if os.fork() == 0:
            os._exit(0)
        num_running += 1
    for _ in range(num_running):
        os.wait()
    return time.monotonic() - begin


if __name__ == "__main__":
    answer_all(lambda line: measure(int(line)))
