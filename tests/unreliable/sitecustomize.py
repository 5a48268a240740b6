"""Makes the doorbells of a worker process unreliable: one ring in five is lost, one in five repeated.

Python imports a module of this name at its start; tests put this folder on PYTHONPATH of the workers they start. It
patches only processes that run `dljobs.workers`, and writes what it did to `WORKER.bells` in the service's home.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import itertools
import json
import os
import sys
from pathlib import Path
from types import ModuleType

TARGET = "dljobs.service.doorbell"


def make_unreliable(module: ModuleType) -> None:
    """Wrap `Doorbell._ring`."""
    name = json.loads(sys.orig_argv[-1])["name"]
    count = itertools.count()
    ring = module.Doorbell._ring
    record = Path(os.environ["DLJOBS_HOME"], f"{name}.bells")

    def unreliable(self: object, *arguments: object) -> bool:
        fate = next(count) % 5
        with record.open("a") as file:
            file.write({0: "dropped\n", 1: "repeated\n"}.get(fate, "rung\n"))
        if fate == 0:
            return True
        if fate == 1:
            ring(self, *arguments)
        return bool(ring(self, *arguments))

    module.Doorbell._ring = unreliable


class PatchAfterImport(importlib.abc.MetaPathFinder):
    """Finds the one module, through everybody else, and patches it when it has been executed."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            make_unreliable(module)

        spec.loader.exec_module = execute_and_patch
        return spec


if "dljobs.workers" in sys.orig_argv:
    sys.meta_path.insert(0, PatchAfterImport())
