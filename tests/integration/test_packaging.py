"""What `pip install` brings: one import name, real files, and a client that works without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN = ("torch", "numpy", "nvidia", "safetensors", "sklearn", "matplotlib", "dljobs", "__edit")


BUILD_SDIST = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: setuptools leaves its own folders beside what it builds.
    out, source = tmp_path_factory.mktemp("sdist"), tmp_path_factory.mktemp("source") / "dljobs"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "demo", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    subprocess.run([sys.executable, "-c", BUILD_SDIST, out], check=True, cwd=source, stdout=subprocess.DEVNULL)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, sdist]
    subprocess.run(command, check=True, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_source_distribution_tells_how_to_run_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "deploy/systemd/dljobs-worker.service"} <= names


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


def make_environment(place: Path, wheel: Path, hidden: tuple[str, ...]) -> dict[str, str]:
    """A virtual environment with this wheel, and this environment's packages but for those that are hidden."""
    venv.create(place, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    site = next((place / "lib").glob("python*/site-packages"))
    ours = next(path for path in map(Path, sys.path) if (path / "sqlalchemy").is_dir())
    for entry in ours.iterdir():
        if not entry.name.lower().startswith(hidden) and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return {"DLJOBS_HOME": str(place / "home"), "PATH": f"{place / 'bin'}:/usr/bin:/bin", "HOME": str(place)}


def run(environment: dict[str, str], command: str) -> str:
    """What a command of that environment prints, outside of the repository."""
    folder = environment["HOME"]
    words = command.split()
    words[0] = f"{folder}/bin/{words[0]}"
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=folder, check=False, timeout=120)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_an_installed_client_works_without_torch(wheel: Path, tmp_path: Path) -> None:
    """In an environment with the client's dependencies only."""
    environment = make_environment(tmp_path / "venv", wheel, HIDDEN)
    for command in ("db upgrade", "submit lenet --gpus 4", "status", "why @", "models", "--help"):
        run(environment, f"dljobs {command}")
    found = subprocess.run([tmp_path / "venv/bin/python", "-c", "import torch"], capture_output=True, check=False)
    assert found.returncode == 1


def test_an_installed_service_trains(wheel: Path, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "venv", wheel, ("dljobs", "__edit"))
    run(environment, "dljobs up --detach --cpu-devices 2")
    try:
        run(environment, "dljobs submit lenet --gpus 2 --set max_steps=2 --wait")
        run(environment, "dljobs export @ -o weights.safetensors")
    finally:
        run(environment, "dljobs down --now")
