"""What the forkserver imports before the first rank is forked. Importing this file is the whole of its work.

It is imported in the forkserver only, as the one preloaded module: Python passes over an ImportError there without a
word, and anything else would end the forkserver, so failures are kept here for `Launcher.warm` to report. Nothing here
may start a thread or touch CUDA: a fork would inherit it broken.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import sys
import traceback

import psutil

import dljobs.models

MODULES = [
    "numpy.ctypeslib",  # by the first tensor that is made of a NumPy array
    "safetensors.torch",
    "torch",
    "torch.distributed",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.multiprocessing.errors",
    "torch.nn.parallel",
    "torch.optim",
    # Imported by the first optimizer and by DDP: a second of their start, if not here.
    "torch._dynamo",
    "torch.utils._foreach_utils",
    "dljobs.workers.rank",
]

failures: dict[str, str] = {}  # of a module that every rank needs: the traceback
zoo_failures: dict[str, str] = {}  # of a model's or a dataset's: only jobs that use it will fail


def zoo_modules() -> list[str]:
    """Every module of the zoo, so that no job pays for importing its model or its data."""
    found = pkgutil.walk_packages(dljobs.models.__path__, "dljobs.models.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def _import_all(names: list[str], failures: dict[str, str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            failures[name] = traceback.format_exc()


def _end_ranks(forkserver_pid: int) -> None:
    """The forkserver ends because its worker is gone: the ranks die by PR_SET_PDEATHSIG, their children only by this.

    Then leave at once: a teardown takes long and complains of leaks in Triton.
    """
    if os.getpid() == forkserver_pid:
        for child in psutil.Process().children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # a rank leads its own session
        os._exit(0)


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    # A terminal's Ctrl-C and hang-up go to its whole session; ranks must end by their supervisor's word only.
    os.setsid()
    # OpenMP reads this when torch is loaded. Its threads would else spin where they wait for each other, and on a host
    # with other work to do they spin in the way of the very thread they wait for: LeNet on two threads of two busy
    # cores made 8 to 70 steps a second, with this 90 to 200. Whoever has the machine to himself may set ACTIVE.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    atexit.register(_end_ranks, os.getpid())
_import_all(MODULES, failures)
_import_all(zoo_modules(), zoo_failures)
# What is here now is shared by all ranks: the collector must not write into these pages.
gc.collect()
gc.freeze()
