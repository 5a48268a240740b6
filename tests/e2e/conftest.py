"""Fixtures of the tests that use dljobs as a person does: by its command line, against a whole service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, running_cluster
from tests.output_schema import read_output

DLJOBS = Path(sys.executable).with_name("dljobs")


@dataclass
class CommandLine:
    """Runs `dljobs` as its own process."""

    environment: dict[str, str]
    command: tuple[str, ...] = (str(DLJOBS),)

    def __call__(
        self, *arguments: object, timeout_s: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        return subprocess.run(
            [*self.command, *map(str, arguments)],
            env={**self.environment, **variables},
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def ok(self, *arguments: object, **options: Any) -> str:
        """Run a command that must succeed; returns its standard output."""
        done = self(*arguments, **options)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: object) -> dict[str, Any]:
        """Run a reading command with --json; its output is as the schema says."""
        return read_output(self.ok(*arguments, "--json"))

    def submit(self, *arguments: object) -> int:
        return int(self.ok("submit", *arguments, "--parsable"))


def command_line(cluster: Cluster) -> CommandLine:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DLJOBS_")}
    return CommandLine({**clean, **cluster.settings.to_environment()})


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A service with one worker of four devices, shared by the tests that leave it as they found it."""
    with running_cluster(tmp_path_factory.mktemp("home")) as cluster:
        cluster.start_worker("w1", 4)
        yield cluster


@pytest.fixture(scope="session")
def dljobs(service: Cluster) -> CommandLine:
    """The command line of that service."""
    return command_line(service)
