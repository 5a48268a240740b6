"""What `pip install` brings: one import name, real files, and a client that works without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN = ("torch", "numpy", "nvidia", "safetensors", "sklearn", "matplotlib", "dljobs", "__editable__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: setuptools leaves its own folders beside what it builds.
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "dljobs"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "demo", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run(command, check=True, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_real_files_under_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [info.filename for info in archive.infolist() if info.external_attr >> 28 == 0o12], "no links"
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dljobs"}
    for needed in (
        "dljobs/py.typed",
        "dljobs/errors.py",
        "dljobs/models/lenet.py",
        "dljobs/migrations/env.py",
        "dljobs/migrations/script.py.mako",
        "dljobs/migrations/versions/0001_the_first_tables.py",
        "dljobs/service/output_schema.json",
        "dljobs/workers/__main__.py",
    ):
        assert needed in names
    assert not [name for name in names if "tests" in name or "benchmarks" in name]


def test_an_installed_client_works_without_torch(wheel: Path, tmp_path: Path) -> None:
    """In an environment with the client's dependencies only, from the wheel, outside of the repository."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    site = next((place / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The client's dependencies come from this environment; torch and its like are hidden from it.
    ours = next(path for path in map(Path, sys.path) if (path / "sqlalchemy").is_dir())
    for entry in ours.iterdir():
        if not entry.name.lower().startswith(
            ("torch", "numpy", "nvidia", "safetensors", "sklearn", "dljobs", "__edit")
        ):
            target = site / entry.name
            if not target.exists():
                target.symlink_to(entry)
    run = [str(python), "-P", "-c", "from dljobs.service.cli import main; main()"]
    environment = {"DLJOBS_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for arguments in (["db", "upgrade"], ["submit", "lenet", "--gpus", "4"], ["status"], ["why", "@"], ["models"]):
        command = [*run, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
    found = subprocess.run([str(python), "-c", "import torch"], env=environment, capture_output=True, check=False)
    assert found.returncode == 1
