"""The worker process: `python -P -m dljobs.workers '{"gpus": null, "cpu_devices": 4, "name": null}'`.

`dljobs worker` and `dljobs up` start it so. It starts the forkserver first: what that imports takes as long as what
the worker itself needs (`process.py`), and they do it beside each other.
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing.util
import os
import shutil
import sys

from dljobs.errors import DljobsError
from dljobs.service.settings import SECRET_VARIABLES, load_settings

from .keeper import Keeper
from .temporary import take_temporary

PR_SET_DUMPABLE = 4


def main(arguments: list[str]) -> int:
    """Run a worker until it is asked to stop; returns its exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    keeper = Keeper()
    try:
        options = json.loads(arguments[0]) if arguments else {}
        settings = load_settings()
        ready_fd = os.environ.pop("DLJOBS_READY_FD", None)
        _hide_secrets()
        take_temporary()
        keeper.start()
        from .process import run

        return run(settings, options, None if ready_fd is None else int(ready_fd), keeper)
    except DljobsError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"dljobs: {error.message}{hint}", file=sys.stderr)
        return error.exit_code
    finally:
        keeper.close()


def _hide_secrets() -> None:
    """Keep passwords from the ranks: out of the environment they inherit, and out of reach in /proc."""
    for variable in SECRET_VARIABLES:
        os.environ.pop(variable, None)
    # A process of the same user could still read the first environment in /proc/PID/environ, or our memory.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    sys.stderr.flush()
    # What `take_temporary` made, and a finalizer would remove.
    shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)
    os._exit(code)  # nothing is left to do, and tearing down the interpreter takes half a second
