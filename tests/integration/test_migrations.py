"""Migrations: up, down and up again on both databases, and always exactly the declared tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import dljobs.migrations
from dljobs.errors import SchemaMismatch, UnknownName, Unreachable
from dljobs.service import events, schema
from dljobs.service.database import Database, open_database
from dljobs.service.settings import Settings
from dljobs.service.tables import metadata
from tests.databases import settings_for
from tests.integration.store.racing import race
from tests.integration.store.rows import start, submit


def tables(settings: Settings) -> set[str]:
    database = open_database(settings, create=True)
    with database.read() as connection:
        names = set(inspect(connection).get_table_names())
    database.close()
    return names - {"dljobs_version"}


def differences(settings: Settings) -> list[Any]:
    """What Alembic would still have to do to come to the declared tables."""
    database = open_database(settings)
    options = {"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
    options |= {"version_table": "dljobs_version"}
    with database.read() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    database.close()
    return found


def checks(settings: Settings) -> set[tuple[str, str, str]]:
    """All check constraints with their words, which Alembic does not compare."""
    database = open_database(settings)
    with database.read() as connection:
        inspector = inspect(connection)
        found = {
            (table, str(check["name"]), check["sqltext"])
            for table in metadata.tables
            for check in inspector.get_check_constraints(table)
        }
    database.close()
    return found


def set_revision(settings: Settings, revision: str) -> None:
    database = open_database(settings)
    with database.write() as connection:
        connection.execute(text("UPDATE dljobs_version SET version_num = :revision"), {"revision": revision})
    database.close()


def test_up_down_and_up_again(empty_settings: Settings) -> None:
    for _ in range(2):
        assert schema.upgrade(empty_settings) == schema.HEAD
        assert tables(empty_settings) == set(metadata.tables)
        assert differences(empty_settings) == []
        assert schema.downgrade(empty_settings, "base") == "base"
        assert tables(empty_settings) == set()


def test_every_step_up_and_down(empty_settings: Settings) -> None:
    for revision in schema.REVISIONS:
        assert schema.upgrade(empty_settings, revision) == revision
        assert schema.upgrade(empty_settings, revision) == revision
    for revision in (*reversed(schema.REVISIONS[:-1]), "base", "base"):
        assert schema.downgrade(empty_settings, revision) == revision


def test_the_migrated_schema_is_the_declared_one(empty_settings: Settings) -> None:
    schema.upgrade(empty_settings)
    assert differences(empty_settings) == []
    migrated = checks(empty_settings)
    database = open_database(empty_settings)
    with database.write() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    database.close()
    assert migrated == checks(empty_settings) != set()


def test_an_upgrade_keeps_what_is_there(database_settings: Settings, database: Database) -> None:
    job_id = submit(database)
    assert schema.upgrade(database_settings) == schema.HEAD
    with database.read() as connection:
        assert connection.execute(text("SELECT id FROM jobs")).scalars().all() == [job_id]


def test_every_step_keeps_what_is_there(database_settings: Settings, database: Database) -> None:
    """SQLite makes a table anew to change it, and the rows of others must go on referring to it."""
    _, key = start(database, idempotency_key="k")
    for revision in (*reversed(schema.REVISIONS[:-1]), *schema.REVISIONS[1:]):
        step = schema.upgrade if revision > schema.current_revision(database) else schema.downgrade
        assert step(database_settings, revision) == revision
        with database.write() as connection:
            assert connection.execute(text("SELECT idempotency_key FROM jobs")).scalars().all() == ["k"]
            # With foreign keys enforced again.
            connection.execute(text("UPDATE runs SET job_id = job_id"))
    with database.read() as connection:
        assert [event["run_id"] for event in events.list_events(connection)][-1] == key.run_id


def test_the_revisions_are_the_files() -> None:
    folder = Path(dljobs.migrations.__file__).parent
    scripts = ScriptDirectory(str(folder))
    oldest_first = [script.revision for script in scripts.walk_revisions()][::-1]
    assert tuple(oldest_first) == schema.REVISIONS
    assert scripts.get_heads() == [schema.HEAD]
    files = {path.name.split("_")[0] for path in (folder / "versions").glob("[0-9]*.py")}
    assert files == set(schema.REVISIONS)


def upgrade(home: str, url: str) -> str:
    return schema.upgrade(settings_for(Path(home), url))


def test_many_upgrades_at_once_are_one(empty_settings: Settings) -> None:
    arguments = (str(empty_settings.home), empty_settings.database_url)
    assert race(upgrade, *[arguments] * 4) == [schema.HEAD] * 4
    assert differences(empty_settings) == []


def test_an_upgrade_that_fails_changes_nothing(empty_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(empty_settings, create=True)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE leases (id INTEGER)"))  # in the way of a later step
    database.close()
    with pytest.raises(Exception, match="leases"):
        schema.upgrade(empty_settings)
    assert tables(empty_settings) == {"leases"}


@pytest.mark.parametrize(
    ("revision", "words", "command"),
    [("9999", "newer than this dljobs", "pip install --upgrade dljobs"), ("0000", "older", "dljobs db upgrade")],
)
def test_another_schema_is_refused_with_the_command(
    database_settings: Settings, monkeypatch: pytest.MonkeyPatch, revision: str, words: str, command: str
) -> None:
    monkeypatch.setattr(schema, "REVISIONS", ("0000", *schema.REVISIONS))
    set_revision(database_settings, revision)
    with pytest.raises(SchemaMismatch, match=words) as caught:
        schema.open_checked(database_settings)
    assert command in caught.value.hint
    assert revision in caught.value.message
    assert schema.HEAD in caught.value.message


def test_a_newer_schema_is_neither_upgraded_nor_taken_down(database_settings: Settings) -> None:
    set_revision(database_settings, "9999")
    before = tables(database_settings)
    with pytest.raises(SchemaMismatch, match="newer"):
        schema.upgrade(database_settings)
    with pytest.raises(SchemaMismatch, match="newer"):
        schema.downgrade(database_settings, "base")
    assert tables(database_settings) == before


def test_an_empty_schema_is_refused_with_the_command(empty_settings: Settings) -> None:
    open_database(empty_settings, create=True).close()
    with pytest.raises(SchemaMismatch, match="has no dljobs tables") as caught:
        schema.open_checked(empty_settings)
    assert "dljobs db upgrade" in caught.value.hint
    schema.upgrade(empty_settings)
    schema.open_checked(empty_settings).close()
    schema.downgrade(empty_settings, "base")
    with pytest.raises(SchemaMismatch, match="has no dljobs tables"):
        schema.open_checked(empty_settings)


def test_an_unknown_revision(database_settings: Settings) -> None:
    for move in (schema.upgrade, schema.downgrade):
        with pytest.raises(UnknownName, match="0001"):
            move(database_settings, "00001")
        with pytest.raises(UnknownName):
            move(database_settings, "-1")
    assert tables(database_settings) == set(metadata.tables)


def test_a_downgrade_does_not_make_a_database(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="there is no database"):
        schema.downgrade(settings_for(tmp_path), "base")
    assert list(tmp_path.iterdir()) == []
