"""Anything at all as specs, arguments, doorbells, settings and stored bytes: no traceback, no change, no code run.

A few hundred inputs in the suite; `make fuzz` tries 10,000 (DLJOBS_TEST_FUZZ=2000, of each of five).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dljobs.errors import DljobsError
from dljobs.service import cli
from dljobs.service.database import Database, open_database
from dljobs.service.doorbell import ATTEND_TASK, EXECUTE_TASK, SCHEDULE_TASK
from dljobs.service.runs import claim
from dljobs.service.settings import Settings, load_settings, setting_fields
from dljobs.service.spec import JobSpec
from dljobs.service.tables import metadata
from dljobs.service.tensors import FileSource, TensorFile
from dljobs.workers.consumer import Consumer, Stopping
from dljobs.workers.weights import read_metadata, read_tensors
from tests.databases import settings_for
from tests.service_world import World

NUM_EXAMPLES = int(os.environ.get("DLJOBS_TEST_FUZZ", "60"))
MANY = settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
# What would be seen if anybody ever evaluated, imported, formatted or handed it to a shell.
CANARY = "canary"
MALICE = [
    f"__import__('os').mkdir('{CANARY}')",
    f"$(mkdir {CANARY})",
    f"`mkdir {CANARY}`",
    f"; mkdir {CANARY} #",
    f"!!python/object/apply:os.mkdir ['{CANARY}']",
    f"{{0.__class__.__init__.__globals__[os].mkdir({CANARY!r})}}",
    "'; DROP TABLE jobs; --",
    "./poison.py:Net",
    "poison:Net",
    "../../../../etc/passwd",
]
POISON = f"import os\nos.mkdir({CANARY!r})\n"
# As the operating system hands them over: no NUL, and bytes that are no UTF-8 as lone surrogates.
WORDS = st.one_of(
    st.sampled_from(MALICE),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30),
    st.builds(os.fsdecode, st.binary(max_size=12).filter(lambda octets: b"\0" not in octets)),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "-", "--", "@", "1", "@:best", "1:step-10", "1-3", "1e999", "-1", "9" * 400, "\x1b[2J", "NaN"]
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(MALICE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[World]:
    """Jobs in several states; the current folder holds a module that nobody may import."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "home").mkdir()
    made = settings_for(folder / "home", user="ada")
    shutil.copy(sqlite_template, made.sqlite_path)
    database = open_database(made)
    world = World(database, made)
    world.worker("w1", 4)
    world.finished_job()
    world.job(num_devices=4)
    key = world.start()
    world.job(held=True)
    world.job(num_devices=2)
    world.write_log(key, (0, "line"))
    (folder / "poison.py").write_text(POISON)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("DLJOBS_")]:
            patch.delenv(name)
        for name, value in made.to_environment().items():
            patch.setenv(name, value)
        yield world
    database.close()


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as connection:
        return {name: list(connection.execute(select(table)).all()) for name, table in metadata.tables.items()}


def check_nothing_ran() -> None:
    assert not Path(CANARY).exists(), "an input was run as code"


# ---- specs

SPEC = json.loads(JobSpec("lenet", "digits", "cross_entropy", "accuracy", "max").to_json())


@st.composite
def spec_texts(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        return draw(st.one_of(st.text(max_size=60), JSON.map(json.dumps), st.integers(1, 5).map(lambda n: "[" * 10**n)))
    spec = json.loads(json.dumps(SPEC))
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from([spec, spec["training"] if isinstance(spec.get("training"), dict) else spec]))
        name = draw(st.sampled_from([*part, "surplus"]))
        if draw(st.booleans()):
            part[name] = draw(JSON)
        else:
            part.pop(name, None)
    return json.dumps(spec)


@MANY
@given(spec_texts())
def test_specs(text: str) -> None:
    try:
        JobSpec.from_json(text)
    except DljobsError as error:
        assert error.message
    check_nothing_ran()


# ---- arguments

# Those that start or await something, or load torch, are not for a few milliseconds.
_SLOW = {"up", "down", "worker", "wait", "doctor", "eval", "predict", "simulate", "plot", "completion"}
COMMANDS = sorted({name for section in cli.COMMANDS.values() for name in section} - _SLOW)
OPTIONS = [
    "--json",
    "--all",
    "--set",
    "--gpus",
    "--epochs",
    "--lr",
    "--name",
    "--data",
    "--strategy",
    "--until",
    "--after",
    "--begin",
    "--time",
    "--tag",
    "--user",
    "--state",
    "--limit",
    "--rank",
    "--run",
    "--held",
    "--array",
    "--min-gpus",
    "--nodes",
    "--spread",
    "--with",
    "--force",
    "--dry-run",
    "--output",
    "--format",
    "--priority",
    "--memory",
    "--label",
    "--exclude",
    "--batch-size",
    "--idempotency-key",
    "--max-retries",
    "--parsable",
    "--fresh",
    "--reason",
    "--metric",
    "-h",
    "-n",
    "-o",
]
ARGUMENTS = st.tuples(
    st.sampled_from(COMMANDS),
    st.lists(
        st.one_of(WORDS, st.sampled_from(OPTIONS), st.sampled_from(["lenet", "digits", "1", "2", "@"])), max_size=6
    ),
)


@MANY
@given(ARGUMENTS)
def test_arguments(world: World, arguments: tuple[str, list[str]]) -> None:
    command, words = arguments
    if "--follow" in words or "-f" in words:
        return
    before = everything(world.database)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([command, *words])
    err.seek(0)
    said = err.read()
    assert "Traceback" not in said
    if code:
        assert said, "a failure without a word"
        assert everything(world.database) == before, "a failure that changed something"
    check_nothing_ran()


# ---- doorbells


class Believer:
    """What the consumer calls: the claim of the real worker, which must refuse everything."""

    name = "w1"

    def __init__(self, database: Database) -> None:
        self._database = database

    def schedule(self) -> None:
        pass

    def attend(self) -> None:
        pass

    def execute(self, key: Any) -> bool:
        with self._database.write() as connection:
            assert not claim(connection, key, 1), f"claimed by {key}"
        return False


@MANY
@given(st.sampled_from([SCHEDULE_TASK, EXECUTE_TASK, ATTEND_TASK]), st.lists(JSON | WORDS | st.just(2), max_size=3))
def test_doorbells(world: World, task: str, arguments: list[Any]) -> None:
    app = Celery("fuzz", set_as_current=False)
    Consumer(app, Believer(world.database), Stopping(), on_ready=lambda: None)  # type: ignore[arg-type]
    before = everything(world.database)
    # One argument too many or too few is Celery's to refuse, which it does with a line in the log.
    with contextlib.suppress(TypeError):
        app.tasks[task](*arguments)
    assert everything(world.database) == before
    check_nothing_ran()


# ---- settings

NAMES = [field.name for field in setting_fields()]
VALUES = WORDS | st.sampled_from(
    ["sqlite:///x", "postgresql://a:b@c/d", "user:* devices=1", "ada=2 bob=0.5", "inf", "0"]
)
TOML = st.one_of(
    st.text(max_size=60),
    st.dictionaries(st.sampled_from([*NAMES, "surplus"]), JSON, max_size=4).map(
        lambda values: "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    ),
)


@MANY
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), TOML)
def test_settings(world: World, environment: dict[str, str], toml: str) -> None:
    file = world.settings.home / "fuzzed.toml"
    file.write_text(toml, errors="surrogateescape")
    variables = {f"DLJOBS_{name.upper()}": value for name, value in environment.items()}
    variables = {"DLJOBS_HOME": str(world.settings.home), "DLJOBS_CONFIG": str(file), **variables}
    try:
        made = load_settings(environ=variables)
        assert isinstance(made, Settings)
        assert {name for name, value in dataclasses.asdict(made).items() if value is None} == set()
    except DljobsError as error:
        assert error.message
    check_nothing_ran()


# ---- stored bytes

HEADER = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {".order": '["a"]'}}


@st.composite
def weights_files(draw: st.DrawFn) -> bytes:
    header = json.loads(json.dumps(HEADER))
    match draw(st.integers(0, 3)):
        case 0:
            return draw(st.binary(max_size=100))
        case 1:
            header["a"][draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(JSON)
        case 2:
            header["__metadata__"] = draw(
                JSON | st.dictionaries(st.sampled_from([".order", "b"]), JSON.map(json.dumps))
            )
        case 3:
            header = draw(JSON)
    text = draw(st.sampled_from([json.dumps(header), "[" * 100_000])).encode()
    content = bytearray(len(text).to_bytes(8, "little") + text + bytes(16))
    for _ in range(draw(st.integers(0, 2))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(len(content) - 20, len(content)))])


@MANY
@given(weights_files())
def test_stored_bytes(world: World, content: bytes) -> None:
    path = world.settings.home / "fuzzed.safetensors"
    path.write_bytes(content)
    for read in (_read_with_numpy, read_tensors, read_metadata):
        with contextlib.suppress(DljobsError):
            read(path)
    check_nothing_ran()


def _read_with_numpy(path: Path) -> None:
    file = TensorFile(FileSource(path))
    for info in file.tensors.values():
        file.read(info)
        list(file.blocks(info))
