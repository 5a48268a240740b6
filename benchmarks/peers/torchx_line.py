"""TorchX: a program on this machine, by its `local_cwd` scheduler. Run by the Python of TorchX's own environment.

`python -m benchmarks.peers.torchx_line FOLDER` answers `api` and `shell` with the seconds from submitting a Python
process (`torchx run`) to its first line.
"""

from __future__ import annotations

import sys
import time

from torchx.runner import Runner, get_runner  # type: ignore[import-not-found]  # of its own environment
from torchx.specs import AppDef, Role  # type: ignore[import-not-found]

from .answers import answer_all, run_own

LINE = "import time; print('at', time.time())"
SCHEDULER = "local_cwd"


def measure(runner: Runner, folder: str, how: str) -> float:
    """Submit once, and wait for the end."""
    role = Role("line", image=folder, entrypoint=sys.executable, args=["-c", LINE])
    begin = time.time()
    if how == "shell":
        output = run_own("torchx", "run", "--scheduler", SCHEDULER, "--wait", "--log", "utils.python", "-c", LINE)
        lines = output.splitlines()
    else:
        handle = runner.run(AppDef("line", roles=[role]), scheduler=SCHEDULER, cfg={"log_dir": folder})
        runner.wait(handle, wait_interval=0.01)
        lines = list(runner.log_lines(handle, role.name))
    [at] = [line.rpartition("at ")[2] for line in lines if "at " in line and line.strip()[-1].isdigit()]
    return float(at) - begin


def main(folder: str) -> None:
    """Answer while the runner is there."""
    with get_runner() as runner:
        answer_all(lambda how: measure(runner, folder, how))


if __name__ == "__main__":
    main(sys.argv[1])
