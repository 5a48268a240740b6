"""The schema's version: what this dljobs speaks, what a database has, and how to bring it up or down.

Clients compare two short strings; only `dljobs db` and `dljobs up` load Alembic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dljobs.errors import DljobsError, SchemaMismatch, UnknownName, Unreachable

from .plain import PlainDatabase, open_plain
from .settings import Settings
from .statements import AnyDatabase, value

if TYPE_CHECKING:
    from alembic.config import Config

    from .database import Database

# Oldest first; a test holds it against the files in migrations/versions/.
REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
)
HEAD = REVISIONS[-1]
_FIND_VERSION = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'dljobs_version'",
    "postgresql": "SELECT to_regclass('dljobs_version')::text",
}


def current_revision(database: AnyDatabase) -> str | None:
    """The revision the database is at, or None if dljobs was never there."""
    with database.read() as connection:
        if value(connection, _FIND_VERSION["sqlite" if database.is_sqlite else "postgresql"]) is None:
            return None
        found = value(connection, "SELECT version_num FROM dljobs_version")
    return None if found is None else str(found)


def check(database: AnyDatabase) -> None:
    """Make sure the database speaks this dljobs' schema.

    Raises:
        SchemaMismatch: it is older, newer or empty; the hint names the command.
    """
    found = current_revision(database)
    if found == HEAD:
        return
    if found is None:
        raise SchemaMismatch(f"the database {database.shown_url} has no dljobs tables", "run `dljobs db upgrade`")
    if found in REVISIONS:
        raise SchemaMismatch(
            f"the database's schema is {found}, older than this dljobs, which needs {HEAD}", "run `dljobs db upgrade`"
        )
    raise SchemaMismatch(
        f"the database's schema is {found}, newer than this dljobs, which knows {HEAD}",
        "install the dljobs release that your service runs: pip install --upgrade dljobs",
    )


def open_checked(settings: Settings) -> Database:
    """The database of these settings, with this dljobs' schema: what every command but `db` and `up` begins with."""
    from .database import open_database

    database = open_database(settings)
    check(database)
    return database


def open_checked_plain(settings: Settings) -> PlainDatabase:
    """The same over its driver alone; raises as `open_plain`."""
    database = open_plain(settings)
    check(database)
    return database


def upgrade(settings: Settings, revision: str = "head") -> str:
    """Bring the database to `revision`, creating the embedded file if need be; returns the revision it is at now."""
    return _migrate(settings, revision, up=True)


def downgrade(settings: Settings, revision: str) -> str:
    """Take the database back to `revision` ("base": no tables)."""
    return _migrate(settings, revision, up=False)


def _migrate(settings: Settings, revision: str, *, up: bool) -> str:
    from alembic import command
    from sqlalchemy import event

    from .database import Lock, open_database, wait_for_lock

    if revision not in (*REVISIONS, "head", "base"):
        raise UnknownName("schema revision", revision, (*REVISIONS, "head", "base"))
    database = open_database(settings, create=up)
    if database.is_sqlite:
        event.listen(database.engine, "connect", _without_foreign_keys)
    try:
        found = current_revision(database)
        if found is not None and found not in REVISIONS:
            check(database)
        config = _alembic_config()
        with database.write() as connection:
            wait_for_lock(connection, Lock.MIGRATION)
            config.attributes["connection"] = connection
            (command.upgrade if up else command.downgrade)(config, revision)
            if database.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise DljobsError("the migration would leave rows without what they refer to; nothing was changed")
        return current_revision(database) or "base"
    except Unreachable as error:
        raise Unreachable(error.message, error.hint) from None
    finally:
        database.close()


def _without_foreign_keys(connection: Any, _record: Any) -> None:
    """SQLite changes a table by making it anew: it drops the old one, which rows of other tables refer to."""
    connection.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction


def _alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "dljobs:migrations")
    return config
