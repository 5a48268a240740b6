"""Commands load what they need and no more: no client has torch, and the commonest do not wait for SQLAlchemy."""

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
# What takes longer to load than all that these commands do, and the standard library that comes with it.
LIGHT = HEAVY | BROKER | TERMINAL | DATABASE | {"asyncio", "email", "importlib.metadata", "psutil", "ssl"}
PLAN = {"dljobs.service.scheduling.planning"}
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
        ("submit lenet --dry-run", 0, LIGHT),
        ("status", 0, LIGHT | PLAN),  # as long as no job waits
        ("submit lenet --gpus 2", 0, LIGHT),
        ("submit lenet --hold --after 1 --idempotency-key k", 0, LIGHT),
        ("cancel 1", 0, HEAVY | BROKER | TERMINAL),
        ("logs 1", 0, LIGHT),
        ("status --json", 0, LIGHT),
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


def test_what_a_completion_loads(environment: dict[str, str]) -> None:
    typed = {"_DLJOBS_COMPLETE": "bash_complete", "COMP_WORDS": "dljobs submit lene", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment | typed, capture_output=True, text=True, check=True)
    assert "plain,lenet" in done.stdout.split()
    assert set(done.stderr.split()) & (LIGHT - {"email", "importlib.metadata"}) == set(), "installed models are asked"
