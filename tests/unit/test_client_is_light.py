"""Commands load what they need and no more: a client has no torch, and `status` does not wait for Celery."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import settings_for

HEAVY = {"torch", "torchvision", "numpy", "matplotlib", "alembic", "sklearn", "safetensors", "scipy", "PIL"}
BROKER = {"celery", "kombu", "redis"}
TERMINAL = {"rich"}
DATABASE = {"sqlalchemy"}
# What a client on SQLite that looks at finished jobs has no use for, in the order of what importing it costs.
UNUSED = {
    "sqlalchemy.dialects.postgresql",
    "dljobs.service.scheduling.planning",
    "dljobs.service.sets",
    "psutil",
    "dljobs.service.artifacts",
    "dljobs.service.blobs",
    "dljobs.service.garbage",
}
SCRIPT = """
import sys
from dljobs.service.cli import run
code = run(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def environment(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    settings = settings_for(tmp_path_factory.mktemp("home"))
    shutil.copy(sqlite_template, settings.sqlite_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DLJOBS_")}
    return {**clean, **settings.to_environment()}


def loaded_by(arguments: str, environment: dict[str, str]) -> tuple[int, set[str]]:
    """The exit code of a command, and the modules that it loaded."""
    command = [sys.executable, "-c", SCRIPT, *arguments.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize(
    ("arguments", "code", "without"),
    [
        ("--help", 0, HEAVY | BROKER | TERMINAL | DATABASE),
        ("--version", 0, HEAVY | BROKER | TERMINAL | DATABASE),
        ("submit --help", 0, HEAVY | BROKER | TERMINAL | DATABASE),
        ("config --json", 0, HEAVY | BROKER | TERMINAL | DATABASE),
        ("models", 0, HEAVY | BROKER | TERMINAL),
        ("completion bash", 0, HEAVY | BROKER | TERMINAL | DATABASE),
        ("submit lenet --dry-run", 0, HEAVY | BROKER | TERMINAL),
        ("status", 0, HEAVY | BROKER | TERMINAL | UNUSED),  # as long as no job waits
        ("submit lenet --gpus 2", 0, HEAVY | BROKER | TERMINAL),
        ("submit lenet --hold", 0, HEAVY | BROKER | TERMINAL),
        ("cancel 1", 0, HEAVY | BROKER | TERMINAL),
        ("logs 1", 0, HEAVY | BROKER | TERMINAL),
        ("status --json", 0, HEAVY | BROKER | TERMINAL),
        ("show 1", 0, HEAVY | BROKER | TERMINAL),
        ("why 1", 0, HEAVY | BROKER | TERMINAL),
        ("wait 1", 103, HEAVY | BROKER | TERMINAL),
        ("events", 0, HEAVY | BROKER | TERMINAL),
        ("workers", 0, HEAVY | BROKER | TERMINAL),
        ("artifacts 1", 0, HEAVY | BROKER | TERMINAL),
        ("db current", 0, HEAVY | BROKER | TERMINAL),
    ],
)
def test_what_a_command_loads(environment: dict[str, str], arguments: str, code: int, without: set[str]) -> None:
    found, loaded = loaded_by(arguments, environment)
    assert found == code
    assert loaded & without == set()
