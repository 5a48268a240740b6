"""What the forkserver imports before the first rank is forked.

Nothing of it may start a thread or touch CUDA: a fork would inherit it broken.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
import traceback

import dljobs.models
from dljobs.errors import DljobsError
from dljobs.models import catalog

from . import huge_pages
from .folder import release
from .forkserver import Preloaded

MODULES = [
    "numpy.ctypeslib",  # by the first tensor that is made of a NumPy array
    "safetensors.torch",
    "torch",
    "torch.distributed",
    "torch.nn.parallel",
    "torch.optim",
    # Imported by the first optimizer and by DDP: a second of their start, if not here.
    "torch._dynamo",
    "torch.utils._foreach_utils",
    "dljobs.workers.rank",
]


def report() -> Preloaded:
    """Import it all, once, and say what could not be imported."""
    failures, zoo_failures = _import_all(MODULES), _import_all(zoo_modules())
    if "torch" not in failures:
        # The first seed reads the source of whoever gives it, in each rank; this one is what is there already.
        sys.modules["torch"].manual_seed(sys.modules["torch"].initial_seed())
    try:
        catalog.models()  # read by each rank, if not here
    except DljobsError:
        zoo_failures["the declarations of the zoo"] = traceback.format_exc()
    # What is here now is shared by all ranks: the collector must not write into these pages.
    gc.collect()
    gc.freeze()
    huge_pages.collapse()
    files = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    return Preloaded(failures, zoo_failures, [*sorted(files), *map(str, catalog.zoo_folders())], release())


def zoo_modules() -> list[str]:
    """Every module of the zoo, so that no job pays for importing its model or its data."""
    found = pkgutil.walk_packages(dljobs.models.__path__, "dljobs.models.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def _import_all(names: list[str]) -> dict[str, str]:
    """The tracebacks of those that failed."""
    failures = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            failures[name] = traceback.format_exc()
    return failures
