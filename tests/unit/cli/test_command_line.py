"""What holds for all commands: help with examples, JSON by the schema, errors without a traceback, exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest

import dljobs.service
from dljobs.service.cli import COMMANDS, cli
from dljobs.service.failures import FailureClass
from tests.service_world import World

SCHEMA = json.loads((Path(dljobs.service.__file__).parent / "output_schema.json").read_text())
NAMES = [name for section in COMMANDS.values() for name in section]
# How each command is asked for JSON in the world of `busy` below; None: it has none.
READING = {
    "submit": ["submit lenet", "submit lenet --dry-run"],
    "status": ["status", "status --all"],
    "show": ["show 1", "show 2", "show 3", "show 4", "show 5"],
    "why": ["why 1", "why 2", "why 3", "why 4", "why 5"],
    "logs": ["logs 1"],
    "wait": ["wait 1 2"],
    "cancel": ["cancel 4"],
    "checkpoint": (),  # waits for a run; test_resuming.py
    "resume": (),
    "verify": (),
    "sweep": (),  # of a set; test_sets.py
    "retry": ["retry 2"],
    "update": ["update 4 --priority 40"],
    "hold": ["hold 4"],
    "release": ["release 5"],
    "events": ["events", "events 1"],
    "artifacts": ["artifacts 1", "artifacts gc", "artifacts gc --dry-run"],
    "inspect": [],  # test_inspect.py has true weights
    "eval": ["eval 1 --queue"],  # tests/e2e evaluates here
    "predict": [],  # test_results.py has a child that answers
    "compare": ["compare 2 3"],
    "export": ["export 1 -o out"],
    "plot": ["plot 1"],
    "models": ["models", "models lenet", "models digits"],
    "up": None,
    "down": None,
    "worker": None,
    "workers": ["workers", "workers --all"],
    "node": ["node list", "node show node1"],
    "gpu": ["gpu list"],
    "usage": ["usage"],
    "doctor": [],  # its own tests know its world
    "db": ["db current"],
    "simulate": ["simulate --jobs 50 --cluster nodes=2,gpus=4"],
    "config": ["config"],
    "completion": None,
}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, those of groups too."""
    context = click.Context(cli)
    for name in NAMES:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", each) for sub, each in command.commands.items())


@pytest.fixture
def busy(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Jobs: 1 succeeded with everything, 2 failed with an error, 3 runs, 4 waits, 5 is held."""
    monkeypatch.chdir(tmp_path)
    world.worker("w1", 2)
    world.job(tags=("a",), time_limit_s=60.0)
    key = world.start()
    world.write_log(key, (0, "hello"), (None, "started"))
    world.write_points(key, "train", "loss", {1: 2.0, 2: float("nan")})
    world.store(key, 1, accuracy=0.5, loss=float("inf"))
    world.succeed(key, accuracy=0.5, loss=float("nan"), per_class={"0": 1.0}, best={"epoch": 1})
    world.job(max_retries=0)
    error = {"rank": 0, "exception": "E", "message": "m", "file": None, "line": None, "traceback": "T", "hint": ""}
    world.end(world.start(), FailureClass.USER, "rank 0 raised E", error=error)
    world.job(num_devices=2)
    world.progress(world.start(), 5, 10)
    world.job()
    world.job(held=True)
    return world


def test_every_command_with_json_is_checked():
    with_json = {name.split()[0] for name, command in commands() if any(p.name == "as_json" for p in command.params)}
    assert set(READING) == set(NAMES)
    assert with_json == {name for name, asked in READING.items() if asked is not None}


@pytest.mark.parametrize("command", [each for asked in READING.values() for each in asked or ()])
def test_json_is_what_the_schema_says(dljobs, busy, command):
    done = dljobs(*command.split(), "--json")
    assert done.code in (0, 100), done.err
    envelope = json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    jsonschema.validate(envelope, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert len(done.lines) == 1
    assert "token" not in done.out


def test_the_schema_is_a_schema_and_uses_all_it_defines():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = json.dumps(SCHEMA)
    assert {name for name in SCHEMA["$defs"] if f'"#/$defs/{name}"' not in text} == set()


@pytest.mark.parametrize("name", [name for name, _command in commands()])
def test_help_holds_an_example_that_parses(dljobs, name, capsys):
    done = dljobs(*name.split(), "-h")
    assert (done.code, done.err) == (0, "")
    assert dljobs(*name.split(), "--help").out == done.out
    examples = re.findall(r"^    (dljobs .*)$", done.out.partition("Example")[2].partition("Options:")[0], re.MULTILINE)
    assert examples, "help without an example"
    assert any(example.startswith(f"dljobs {name}") or f" {name}" in example for example in examples)
    for example in examples:
        parse(shlex.split(example.partition(" >")[0])[1:])


def parse(arguments: list[str]) -> None:
    """Parse as click would, without running the command."""
    context = cli.make_context("dljobs", arguments)
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = command.make_context(name, rest, parent=context)


def test_the_list_of_commands_imports_none_of_them(dljobs):
    help_text = dljobs("--help").out
    for section, entries in COMMANDS.items():
        assert f"{section}:" in help_text
        for name, entry in entries.items():
            assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", help_text, re.MULTILINE)
    imported = "import sys, dljobs.service.cli as c; c.run(['--help']); print([m for m in sys.modules if '.cli.' in m])"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['dljobs.service.cli.lazy_group']"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["staus"], ["unknown command 'staus': did you mean 'status'?"]),
        (["qqq"], ["unknown command 'qqq': known: artifacts, cancel,"]),
        (["--hom", "x", "status"], ["No such option", "--home"]),
        (["status", "--jsno"], ["No such option", "--json", "hint: `dljobs status --help`"]),
        (["db", "upgrad"], ["No such command 'upgrad'"]),
        (["db", "downgrade", "base"], ["say --yes"]),
        (["db", "upgrade", "0099"], ["unknown schema revision '0099'"]),
        (["worker", "--gpus", "0,x"], ["--gpus cannot be '0,x': 'x' is no device"]),
        (["worker", "--gpus", "3-1"], ["counts backwards", "write 1-3"]),
        (["worker", "--gpus", "0", "--cpu-devices", "2"], ["not both"]),
        (["worker", "--cpu-devices", "0"], ["0 is not in the range"]),
        (["worker", "--name", "a b"], ["'a b' is no name for a worker"]),
        (["completion", "tcsh"], ["unknown shell 'tcsh'"]),
        (["--config", "/nowhere.toml", "status"], ["there is no settings file /nowhere.toml"]),
    ],
)
def test_a_usage_error_is_one_sentence_and_a_hint(dljobs, arguments, words):
    done = dljobs(*arguments)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 2


def test_no_command_shows_the_help(dljobs):
    done = dljobs()
    assert done.code == 2
    assert done.err.startswith("Usage: dljobs")


def test_version(dljobs):
    assert dljobs("--version").lines == [f"dljobs {dljobs_version()}"]


def dljobs_version() -> str:
    import dljobs

    return dljobs.__version__


@pytest.mark.parametrize(
    "command", ["status", "show 1", "why 1", "logs 1", "workers", "events", "submit lenet", "cancel 1"]
)
def test_a_database_that_is_not_right_is_said_in_a_sentence(dljobs, settings, command):
    settings.sqlite_path.write_bytes(b"no database at all " * 100)
    done = dljobs(*command.split())
    assert (done.code, done.out) == (1, "")
    assert "file is not a database" in done.err
    settings.sqlite_path.unlink()
    done = dljobs(*command.split())
    assert (done.code, done.out) == (1, "")
    assert "there is no database at" in done.err
    assert "hint: start the service with `dljobs up`" in done.err
    assert not settings.sqlite_path.exists()


def test_the_wrong_schema_names_the_cure(dljobs, world):
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE dljobs_version SET version_num = '9999'")
    done = dljobs("status")
    assert (done.code, done.out) == (1, "")
    assert "newer than this dljobs" in done.err
    assert dljobs("db", "current", "--json").json["is_current"] is False
    with world.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE dljobs_version")
    assert "run `dljobs db upgrade`" in dljobs("status").err


def test_a_database_that_cannot_be_reached(dljobs):
    url = "postgresql://ada:geheim@127.0.0.1:1/x"
    done = dljobs("--database-url", url, "status")
    assert done.code == 1
    assert "does not answer" in done.err
    assert "geheim" not in done.err
    assert dljobs("--database-url", "mongo://x", "status").code == 2


def test_reading_goes_on_while_somebody_writes(dljobs, world):
    world.job()
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET name = 'changed'")
        assert dljobs("status", "--json").json["jobs"][0]["name"] == "lenet"


def test_whoever_reads_our_output_may_go(settings):
    """As `dljobs status | head -0`: no traceback, and the exit code a shell expects."""
    environment = {**os.environ, **settings.to_environment()}
    command = [sys.executable, "-c", "from dljobs.service.cli import main; main()", "models", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_completion(dljobs, settings):
    assert "_DLJOBS_COMPLETE=zsh_complete" in dljobs("completion", "zsh").out
    environment = {**os.environ, **settings.to_environment(), "_DLJOBS_COMPLETE": "bash_complete"}
    for words, expected in (
        ("dljobs sub", "plain,submit\n"),
        ("dljobs submit lene", "plain,lenet\nplain,lenet-cifar\n"),
    ):
        environment |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", "from dljobs.service.cli import main; main()"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == expected


def test_worker_becomes_the_worker_process(dljobs, settings, monkeypatch):
    started = []
    monkeypatch.setattr("os.execve", lambda *arguments: started.append(arguments))
    monkeypatch.setenv("DLJOBS_REDIS_URL", "redis://left-over/0")
    dljobs("--redis-url", "", "worker", "--gpus", "0,2-3,GPU-1234abcd", "--name", "a", "--label", "b=c")
    ((program, command, environment),) = started
    assert program == command[0] == sys.executable
    assert command[1:4] == ["-P", "-m", "dljobs.workers"]
    assert json.loads(command[4]) == {
        "gpus": "0,2-3,GPU-1234abcd",
        "cpu_devices": None,
        "name": "a",
        "labels": {"b": "c"},
    }
    assert environment["DLJOBS_HOME"] == str(settings.home)
    assert "DLJOBS_REDIS_URL" not in environment
