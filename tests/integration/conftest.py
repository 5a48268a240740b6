"""Fixtures of the tests with real processes."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.workers.launcher import Launcher
from tests import small_jobs


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """The launcher of this process, warm. Its ranks run `small_jobs.main`."""
    # multiprocessing imports the main script again in each rank, unless it is some package's `__main__`: pytest's costs
    # 0.3 s, and a real worker's nothing.
    main = sys.modules["__main__"]
    spec = main.__spec__
    main.__spec__ = types.SimpleNamespace(name="pytest.__main__")  # type: ignore[assignment]
    started = Launcher(entry=small_jobs.main)
    started.warm()
    yield started
    started.close()
    main.__spec__ = spec


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all tests, so that each dataset is prepared once."""
    return tmp_path_factory.mktemp("data")
