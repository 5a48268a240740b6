"""How a peer's program answers the benchmark: a line `= …` when it is ready, and one for each line that it is asked.

Standard library alone, and no import of dljobs: programs run this in environments of their own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def answer_all(answer: Callable[[str], object]) -> None:
    """Answer until the input ends."""
    print("= ready", flush=True)
    for line in sys.stdin:
        print(f"= {answer(line.strip())}", flush=True)


def run_own(script: str, *arguments: str) -> str:
    """Run a console script of this environment to its end, as from a shell; returns all that it printed."""
    command = [str(Path(sys.executable).with_name(script)), *arguments]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout
