"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.workers.launcher import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """The launcher of this process, warm. Its ranks run `small_jobs.main`."""
    started = Launcher(entry="tests.small_jobs:main")
    started.warm()
    yield started
    started.close()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all tests, so that each dataset is prepared once."""
    return tmp_path_factory.mktemp("data")
