"""What the tables are made of: their metadata, and types of columns that are the same on both databases."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import CheckConstraint, Connection, Dialect, Integer, MetaData, Text, event
from sqlalchemy.types import BigInteger, TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite gives a 64-bit rowid only to a column declared INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class AnyText(TypeDecorator[str]):
    """Text that a user's program may have written: no database takes half a surrogate pair, and Postgres no NUL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "␀").encode("utf-8", "replace").decode()


def one_of(column: str, values: Iterable[StrEnum], *, nullable: bool = False) -> CheckConstraint:
    """A constraint: the column holds one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    null = f"{column} IS NULL OR " if nullable else ""
    return CheckConstraint(f"{null}{column} IN ({listed})", name=column)


@event.listens_for(metadata, "before_create")
def _name_conditions(_target: MetaData, connection: Connection, **_others: object) -> None:
    """Tell the dialect in use what its partial indexes are limited to: the `where` of their `info`.

    `Index(postgresql_where=…)` would load the dialect of Postgres into every client of SQLite.
    """
    for table in metadata.tables.values():
        for index in table.indexes:
            if "where" in index.info:
                index.dialect_kwargs[f"{connection.dialect.name}_where"] = index.info["where"]
