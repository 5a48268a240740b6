"""The README's section on models and data of one's own: its files and its commands, as a reader would try them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import dljobs as package
from tests.cluster import Cluster, running_cluster
from tests.e2e.conftest import CommandLine, command_line

ROOT = Path(package.__file__).parents[1]
RUN = "from dljobs.service.cli import main; main()"
SECTION = re.search(
    r"^## Your own models and data\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", SECTION[1] if SECTION else "", re.DOTALL | re.MULTILINE)
FILES = {text.split("\n", 1)[0].removeprefix("# "): text for kind, text in BLOCKS if kind}
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's files, a table and pictures, and a copy of dljobs that packages can join."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "dljobs", place / "site" / "dljobs", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    rows = [f"{n},{n % 7},{'low' if n < 50 else 'high'}\n" for n in range(100)]
    (place / "table.csv").write_text("a,b,kind\n" + "".join(rows))
    for number in range(12):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (place / "pictures" / name).mkdir(parents=True, exist_ok=True)
            image = Image.new("L", (20, 20), colour[0] // (number + 1))
            image.save(place / "pictures" / name / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def reader(place: Path) -> Iterator[tuple[Cluster, CommandLine]]:
    with pytest.MonkeyPatch.context() as patch, running_cluster(place / "home") as cluster:
        patch.setenv("PYTHONPATH", str(place / "site"))
        patch.chdir(place)
        install()  # as the worker's machine has it
        cluster.start_worker("w1", 2)
        yield cluster, CommandLine(command_line(cluster).environment, (sys.executable, "-P", "-c", RUN))


def install() -> None:
    """The README's `pip install`, into the folder that stands for an environment, without the internet."""
    (command,) = [line for line in COMMANDS if line.startswith("pip ")]
    how = "--quiet --no-deps --no-build-isolation --disable-pip-version-check --target site"
    subprocess.run([sys.executable, "-m", *shlex.split(f"{command} {how}")], check=True, timeout=120)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("dljobs ")])
def test_its_commands_do_what_they_say(reader: tuple[Cluster, CommandLine], command: str) -> None:
    _cluster, dljobs = reader
    done = dljobs(*shlex.split(command)[1:])
    assert done.returncode == 0, (done.stdout, done.stderr)


def test_they_learn(reader: tuple[Cluster, CommandLine]) -> None:
    _cluster, dljobs = reader
    jobs = {job["model"]: job for job in dljobs.json("status", "--all")["status"]["jobs"]}
    assert jobs["our-linear"]["result"]["accuracy"] >= 0.85
    assert jobs["net.py:Net"]["result"]["accuracy"] >= 0.9
    assert "our-linear" in dljobs.ok("models")


def test_a_file_in_the_zoo_itself_is_all_that_a_model_needs(place: Path, reader: tuple[Cluster, CommandLine]) -> None:
    _cluster, dljobs = reader
    text = FILES["ourzoo/ourzoo_models.py"].replace("our-linear", "zoo-linear")
    (place / "site" / "dljobs" / "models" / "zoo_linear.py").write_text(text)
    assert dljobs.json("models", "zoo-linear")["model"]["collection"] == "zoo"
    dljobs.ok("submit", "zoo-linear", "--set", "max_steps=2", "--wait")
