"""The command line in this process, on an SQLite database of its own; its doorbell only notes who rang."""

from __future__ import annotations

import os
import shutil
import sqlite3.dbapi2
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dljobs.service.cli import run
from dljobs.service.database import Database, open_database
from dljobs.service.doorbell import Doorbell
from dljobs.service.settings import Settings
from tests.databases import settings_for
from tests.output_schema import read_output
from tests.service_world import World


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The value of the envelope's noun, which is as the schema says."""
        (value,) = read_output(self.out).values()
        return value


@dataclass
class Redis:
    """The other end of the doorbell."""

    answers: bool
    rings: list[tuple[str, str]]


@pytest.fixture
def settings(sqlite_template: Path, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    found = settings_for(home, user="ada")
    shutil.copy(sqlite_template, found.sqlite_path)
    return found


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    database: Database = open_database(settings)
    yield World(database, settings)
    database.close()


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database's clock stands still, so that whatever is measured by it is exact; ask for it before `world`."""

    def stop(connection: Any, _record: Any) -> None:
        connection.create_function("julianday", 1, lambda _text: 2440587.5 + 20_000.0)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.dbapi2.connect(*arguments, **options)
        stop(connection, None)
        return connection

    event.listen(Engine, "connect", stop)
    monkeypatch.setattr("sqlite3.connect", connect)  # as `plain.py` does
    yield
    event.remove(Engine, "connect", stop)


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Redis:
    """Redis as the doorbell sees it; it notes (task, queue) of each ring. Where `answers` is False, it is down."""
    found = Redis(answers=True, rings=[])

    def ring(self: Doorbell, task: str, _arguments: list[Any], queue: str) -> bool:
        found.rings.append((task, queue))
        self.problem = "" if found.answers else "Redis does not answer"
        return found.answers

    monkeypatch.setattr(Doorbell, "_ring", ring)
    return found


@pytest.fixture
def dljobs(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs a command: `dljobs("status", "--json")`."""
    for name in [name for name in os.environ if name.startswith("DLJOBS_")]:
        monkeypatch.delenv(name)
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return call
