"""How a peer's program answers the benchmark: a line `= …` when it is ready, and one for each line that it is asked.

Standard library alone, and no import of dljobs: programs run this in environments of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def answer_all(answer: Callable[[str], object]) -> None:
    """Answer until the input ends."""
    print("= ready", flush=True)
    for line in sys.stdin:
        print(f"= {answer(line.strip())}", flush=True)
