"""The database's clock, as an SQL expression: the only time that leases, queues and events know.

Hosts may disagree about the time; rows never do, because each moment in them was read from the same clock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from .statements import NOW, read_now

__all__ = ["now", "read_now"]


class now(FunctionElement[float]):
    """Seconds since 1970 by the database server's clock, read when the statement runs."""

    type = Double()
    name = "now"
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    return NOW["sqlite"]


@compiles(now, "postgresql")
def _postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    return NOW["postgresql"]
