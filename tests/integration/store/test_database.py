"""Opening a database, and the one clear sentence where that cannot be."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text

from dljobs.errors import DljobsError, NotAllowed, StorageFull, Unreachable, UsageError
from dljobs.service import blobs, jobs, new_jobs, schema, sweep
from dljobs.service.database import Database, open_database
from dljobs.service.settings import Settings, mask
from tests.databases import PostgresServer, settings_for

from .rows import new_job, submit

SECRET = "hunter2"


def says(error: DljobsError, *words: str) -> None:
    """One sentence for a user: these words, no password, nothing of SQLAlchemy."""
    shown = f"{error.message} {error.hint}"
    assert all(word in shown for word in words), shown
    assert SECRET not in shown
    assert "\n" not in shown
    assert len(shown) < 500
    assert not any(word in shown for word in ("sqlalche.me", "psycopg.", "sqlite3.", "[SQL"))
    assert error.exit_code in (1, 2)


def query(settings: Settings) -> None:
    database = open_database(settings)
    try:
        with database.read() as connection:
            jobs.list_active(connection)
    finally:
        database.close()


# Both


def test_a_block_commits_as_a_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        new_jobs.insert_job(connection, new_job())
        raise RuntimeError
    with database.read() as connection:
        assert jobs.list_active(connection) == []
    submit(database)
    with database.read() as connection:
        assert len(jobs.list_active(connection)) == 1


def test_a_reader_sees_one_moment_and_changes_nothing(database: Database) -> None:
    submit(database)
    count = select(func.count()).select_from(jobs.jobs)
    with database.read() as connection:
        assert connection.scalar(count) == 1
        submit(database)
        assert connection.scalar(count) == 1
    with database.read() as connection:
        assert connection.scalar(count) == 2


def test_a_database_without_tables(empty_settings: Settings) -> None:
    database = open_database(empty_settings, create=True)
    try:
        with pytest.raises(Unreachable) as caught, database.read() as connection:
            jobs.list_active(connection)
    finally:
        database.close()
    says(caught.value, "has no dljobs tables", "dljobs db upgrade")


# SQLite


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        query(settings_for(tmp_path))
    says(caught.value, f"there is no database at {tmp_path}/dljobs.db", "dljobs up")
    with pytest.raises(Unreachable) as caught:
        query(settings_for(tmp_path, f"sqlite:///{tmp_path}/other.db"))
    says(caught.value, "other.db", "dljobs db upgrade")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "dljobs.db").mkdir()
    settings = settings_for(tmp_path)
    for attempt in (query, schema.upgrade):
        with pytest.raises(Unreachable) as caught:
            attempt(settings)
        says(caught.value, "dljobs.db")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    settings = settings_for(tmp_path / "home" / "inner")
    for attempt in (query, schema.upgrade):
        with pytest.raises(Unreachable) as caught:
            attempt(settings)
        says(caught.value, str(tmp_path / "home"))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "dljobs.db").write_bytes(b"this is no database, but a text of some length.\n" * 500)
    settings = settings_for(tmp_path)
    for attempt in (query, schema.upgrade, schema.open_checked):
        with pytest.raises(Unreachable) as caught:
            attempt(settings)
        says(caught.value, "dljobs.db", "not a database")


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can try out another user's rights")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("forbidden", ["folder", "file", "writing"])
def test_no_permission(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, forbidden: str) -> None:
    home = (
        Path(tempfile.gettempdir()) / f"dljobs-test-{os.getpid()}-{forbidden}"
    )  # pytest's own folders are private to root
    home.mkdir()
    settings = settings_for(home)
    try:
        settings.sqlite_path.write_bytes(sqlite_template.read_bytes())
        settings.sqlite_path.chmod(0o644 if forbidden == "writing" else 0o600)
        home.chmod(0o700 if forbidden == "folder" else 0o755)
        with as_nobody():
            for attempt in (query, schema.upgrade):
                with pytest.raises((NotAllowed, Unreachable)) as caught:
                    attempt(settings)
                says(caught.value, str(home))
    finally:
        for path in home.iterdir():
            path.unlink()
        home.rmdir()


def test_the_embedded_file_is_private(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "a" / "home")
    schema.upgrade(settings)
    assert stat.S_IMODE(settings.sqlite_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700


def test_how_sqlite_is_set(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    schema.upgrade(settings)
    database = open_database(settings)
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 0, "page_size": 16384}
    for block in (database.read, database.write):
        with block() as connection:
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
        assert found == wanted
    database.close()


def test_a_home_with_unusual_letters(tmp_path: Path) -> None:
    for name in ("with space", "ümläut", "per%20cent", "q?a=b", "hash#tag", "a:b@c"):
        settings = settings_for(tmp_path / name)
        schema.upgrade(settings)
        query(settings)
        assert settings.sqlite_path.exists(), name


def test_memory_is_refused(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:"):
        with pytest.raises(UsageError) as caught:
            query(settings_for(tmp_path, url))
        says(caught.value, "in-memory")


def test_the_log_of_sqlite_is_moved_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path)
    schema.upgrade(settings)
    database = open_database(settings)
    wal = settings.sqlite_path.with_name("dljobs.db-wal")
    with database.read() as connection:
        jobs.list_active(connection)
    for _ in range(10):
        submit(database)
    length = wal.stat().st_size
    assert length > 0
    sweep.checkpoint_wal(database)
    assert wal.stat().st_size == length  # too short to matter
    monkeypatch.setattr(sweep, "WAL_CHECKPOINT_BYTES", 1)
    sweep.checkpoint_wal(database)
    assert wal.stat().st_size == 0
    submit(database)
    with database.read() as connection:
        assert len(jobs.list_active(connection)) == 11
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


# Postgres and URLs


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    for url in (
        f"postgresql://ada:{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:{SECRET}@localhost:1/db",
        f"postgres://ada:{SECRET}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=ada&password={SECRET}",
        f"postgresql:///db?host={tmp_path}&password={SECRET}",
    ):
        for attempt in (query, schema.upgrade, schema.open_checked):
            with pytest.raises(Unreachable) as caught:
                attempt(settings_for(tmp_path, url))
            says(caught.value, "does not answer", "dljobs doctor")


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://ada:{SECRET}@host/db",
        f"nosuch://ada:{SECRET}@host/db",
        f"postgresql://ada:{SECRET}@host:port/db",
        "not a url",
        f"postgresql+asyncpg://ada:{SECRET}@host/db",
    ],
)
def test_what_is_no_url_of_a_database(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        query(settings_for(tmp_path, url))
    says(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:{}@host/db",
        "postgresql://ada:x@{}@host/db",
        "postgresql://ada:x/{}@host/db",
        "postgresql://ada:x?{}@host/db",
        "postgresql://ada:{}:x@host/db",
        "redis://:{}@host:6379/0",
        "postgresql://host/db?user=ada&password={}",
        "postgresql://host/db?password={}&user=ada",
        "redis+socket:///path?password={}",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    shown = mask(url.format(SECRET))
    assert SECRET not in shown
    assert "***" in shown
    assert shown.startswith(url.split(":", maxsplit=1)[0])


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("", "sqlite:////a/b@c/dljobs.db", "postgresql://ada@host:5432/db", "redis://host:6379/0"):
        assert mask(url) == url


def test_a_database_that_the_server_does_not_have(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.url_of_new_database().replace("dljobs_test", "dljobs_no_such")
    with pytest.raises(Unreachable) as caught:
        query(settings_for(tmp_path, url))
    says(caught.value, "does not exist")


def test_a_user_without_rights(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.url_of_new_database(migrated=True)
    engine = create_engine(settings_for(tmp_path, url).sqlalchemy_url, isolation_level="AUTOCOMMIT")
    name = f"stranger_{os.getpid()}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'"))
    try:
        strangers_url = engine.url.set(drivername="postgresql", username=name, password=SECRET)
        for attempt in (query, schema.open_checked):
            with pytest.raises(NotAllowed) as caught:
                attempt(settings_for(tmp_path, strangers_url.render_as_string(hide_password=False)))
            says(caught.value, "permission denied")
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP ROLE {name}"))
        engine.dispose()


def test_a_postgres_whose_disk_is_full(postgres_server: PostgresServer, tmp_path: Path) -> None:
    database = open_database(settings_for(tmp_path, postgres_server.url_of_new_database()))
    raised = "RAISE EXCEPTION 'could not extend file \"base/1/2\": No space left on device' USING ERRCODE = '53100'"
    with pytest.raises(StorageFull) as caught, database.write() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN {raised}; END $$")
    says(caught.value, "no room left")
    database.close()


def test_a_connection_that_the_server_ended_is_replaced(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """A restart of the server costs the transaction that it met and no later one."""
    database = open_database(settings_for(tmp_path, postgres_server.url_of_new_database(migrated=True)))
    other = create_engine(database.url)
    with pytest.raises(Unreachable) as caught, database.write() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with other.connect() as killer:
            killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        new_jobs.insert_job(connection, new_job())
    says(caught.value, "does not answer")
    submit(database)
    other.dispose()
    database.close()


def test_a_connection_that_ended_in_a_query_of_the_drivers_own(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """It is explained as if it were SQLAlchemy's query, and replaced."""
    database = open_database(settings_for(tmp_path, postgres_server.url_of_new_database(migrated=True)))
    other = create_engine(database.url)
    with pytest.raises(Unreachable) as caught, database.ask() as connection:
        [row] = blobs.read_rows(connection, "SELECT pg_backend_pid() AS pid WHERE 1 = ?", 1)
        with other.connect() as killer:
            killer.exec_driver_sql(f"SELECT pg_terminate_backend({row['pid']}, 10000)")
        blobs.read_rows(connection, "SELECT 1 WHERE 1 = ?", 1)
    says(caught.value, "does not answer")
    with database.ask() as connection:
        assert blobs.read_rows(connection, "SELECT 7 AS seven WHERE 1 = ?", 1) == [{"seven": 7}]
    other.dispose()
    database.close()


def test_connections_that_the_server_ended_while_they_were_idle(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Nobody notices a restart of the server that met no transaction."""
    database = open_database(settings_for(tmp_path, postgres_server.url_of_new_database(migrated=True)))
    other = create_engine(database.url)
    pids = set()
    with database.read() as first, database.ask() as second:
        pids = {connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() for connection in (first, second)}
    assert len(pids) == 2
    with other.connect() as killer:
        for pid in pids:
            assert killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)").scalar() is True
    with database.read() as first, database.ask() as second:
        assert not pids & {
            connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() for connection in (first, second)
        }
    submit(database)
    other.dispose()
    database.close()
