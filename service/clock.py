"""The database's clock, as an SQL expression: the only time that leases, queues and events know.

Hosts may disagree about the time; rows never do, because each moment in them was read from the same clock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Double, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):
    """Seconds since 1970 by the database server's clock, read when the statement runs."""

    type = Double()
    name = "now"
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    # unixepoch('subsec') would need SQLite 3.42; a Julian day as a double still resolves 0.05 ms.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Not now(): that is the start of the transaction, and a claim may have waited for a lock since.
    return "extract(epoch from clock_timestamp())::double precision"


def read_now(connection: Connection) -> float:
    """The database's time."""
    return float(connection.execute(select(now())).scalar_one())
