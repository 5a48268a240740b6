"""One file a benchmark: each holds a `BENCHMARK`, and is found by being here."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.benchmark import Benchmark


def find_benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name, in the order of their names."""
    modules = (importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    found: list[Benchmark] = [module.BENCHMARK for module in modules]
    return {benchmark.name: benchmark for benchmark in sorted(found, key=lambda each: each.name)}
