"""Statements as text: what is asked so early, or so often, that building it would cost more than asking it.

They run over a connection of SQLAlchemy (`database.py`), or over the driver alone (`plain.py`): a command that asks
nothing else is done before SQLAlchemy would be loaded. Their SQL is what SQLite and Postgres have in common; `:name` is
a value, in `IN :names` a list of them, and NOW the database's clock. They know no table: each stands with its noun.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .database import Database
    from .plain import PlainConnection, PlainDatabase

AnyConnection: TypeAlias = "Connection | PlainConnection"
AnyDatabase: TypeAlias = "Database | PlainDatabase"
Row = Mapping[Any, Any]

# Seconds since 1970 by the clock of the database's server, read when the statement runs.
NOW = {
    # unixepoch('subsec') would need SQLite 3.42; a Julian day as a double still resolves 0.05 ms.
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    # Not now(): that is the start of the transaction, and a claim may have waited for a lock since.
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
IDS_AT_ONCE = 1000
T = TypeVar("T")
_WORD = re.compile(r"(?<![:\w]):(\w+)|\bNOW\b")


class NeedsSqlalchemy(Exception):
    """What was asked is more than text, and over a plain connection: ask it of a whole `Database`."""


def rows(connection: AnyConnection, statement: str, **values: Any) -> list[Row]:
    """What a statement finds, each row by the names of its columns."""
    return list(_ask(connection, statement, values).mappings())


def run(connection: AnyConnection, statement: str, **values: Any) -> None:
    """Run a statement that finds nothing."""
    _ask(connection, statement, values)


def _ask(connection: AnyConnection, statement: str, values: dict[str, Any]) -> Any:
    lists = {name: each for name, each in values.items() if isinstance(each, tuple | list)}
    text = _text(statement, connection.dialect.name, tuple((name, len(each)) for name, each in lists.items()))
    for name, each in lists.items():
        del values[name]
        values |= {f"{name}_{number}": one for number, one in enumerate(each)}
    # A member of an enumeration is no text to psycopg.
    given = {name: str(each) if isinstance(each, str) else each for name, each in values.items()}
    return connection.exec_driver_sql(text, given)


def value(connection: AnyConnection, statement: str, **values: Any) -> Any:
    """The first column of the first row; None if there is none."""
    found = rows(connection, statement, **values)
    return next(iter(found[0].values())) if found else None


def whole(connection: AnyConnection) -> Connection:
    """The same as a connection of SQLAlchemy, for what is more than text.

    Raises:
        NeedsSqlalchemy: it is none.
    """
    if not hasattr(connection, "execute"):
        raise NeedsSqlalchemy
    return cast("Connection", connection)


def read_now(connection: AnyConnection) -> float:
    """The database's time."""
    return float(value(connection, "SELECT NOW"))


def in_batches(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many of them at a time as one statement may well name."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]


@lru_cache(256)
def _text(statement: str, dialect: str, lists: tuple[tuple[str, int], ...]) -> str:
    """The statement in the words of a driver."""
    lengths, mark = dict(lists), ":{}" if dialect == "sqlite" else "%({})s"

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return NOW[dialect]
        if name in lengths:
            return f"({', '.join(mark.format(f'{name}_{number}') for number in range(lengths[name])) or 'NULL'})"
        return mark.format(name)

    return _WORD.sub(replaced, statement)
