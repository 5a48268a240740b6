"""`dljobs doctor`: every dependency looked at once, whatever else is down.

It owns the order of the checks and what becomes of one that cannot be made; the checks are in `doctor_checks.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from dljobs.errors import DljobsError

from . import doctor_checks as checks
from .database import Database, open_database
from .doctor_checks import Check
from .node_checks import check_nodes
from .redis_connection import open_redis
from .settings import Settings, mask

ON_MACHINE = {
    "python": checks.check_python,
    "home": checks.check_home,
    "data": checks.check_data,
    "devices": checks.check_devices,
    "encryption": checks.check_encryption,
}
ON_DATABASE: dict[str, Callable[[Settings, Database], Check | None]] = {
    "database": checks.check_database,
    "sqlite": checks.check_sqlite,
    "schema": checks.check_schema,
    "clock": checks.check_clock,
    "workers": checks.check_workers,
}
ON_REDIS: dict[str, Callable[[Settings, Any], Check | None]] = {
    "redis": checks.check_redis,
    "persistence": checks.check_persistence,
    "eviction": checks.check_eviction,
}

NEEDS = {"workers": "schema"}  # beyond the server itself


def examine(settings: Settings, *, nodes: bool = False) -> list[Check]:
    """All checks, in the order in which they are shown. It raises nothing, and shows no password.

    Args:
        nodes: also try the network between the nodes, by a job; else it changes nothing.
    """
    report = [_guarded(name, check, settings) for name, check in ON_MACHINE.items()]
    report += _examine_server("database", ON_DATABASE, open_database, settings)
    report += _examine_server("redis", ON_REDIS, open_redis, settings)
    if nodes:
        report += _examine_nodes(settings)
    return [check for check in report if check is not None]


def _examine_nodes(settings: Settings) -> list[Check]:
    try:
        with contextlib.closing(open_database(settings)) as database:
            return check_nodes(settings, database)
    except Exception as error:
        return [_failed("nodes", error, settings)]


def is_well(report: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings are no failure."""
    return all(check.ok != "fail" for check in report)


def _examine_server(
    first: str, to_check: dict[str, Callable[..., Check | None]], connect: Callable[[Settings], Any], settings: Settings
) -> list[Check | None]:
    """The checks of one server; of those that need another one which failed, nothing is known."""
    report: list[Check | None] = []
    connection: Any = None
    try:
        connection = connect(settings)
        report.append(_guarded(first, to_check[first], settings, connection))
    except Exception as error:
        report.append(_failed(first, error, settings))
    for name, check in list(to_check.items())[1:]:
        failed = {line.name for line in report if line and line.ok == "fail"}
        missing = [needed for needed in (first, NEEDS.get(name)) if needed in failed]
        if missing:
            report.append(Check(name, "warn", f"not known while {missing[0]} fails"))
        else:
            report.append(_guarded(name, check, settings, connection))
    if connection is not None:
        connection.close()
    return report


def _guarded(name: str, check: Callable[..., Check | None], settings: Settings, *server: Any) -> Check | None:
    try:
        return check(settings, *server)
    except Exception as error:  # whatever it is, the other lines are wanted
        return _failed(name, error, settings)


def _failed(name: str, error: Exception, settings: Settings) -> Check:
    if isinstance(error, DljobsError):
        words, cure = error.message, error.hint
    else:
        words, cure = next(iter(f"{type(error).__name__}: {error}".splitlines())), ""
    if not cure or "dljobs doctor" in cure:  # that is where we are
        cure = _cure(name, settings)
    return Check(name, "fail", mask(words), mask(cure))


def _cure(name: str, settings: Settings) -> str:
    if name == "database" and settings.embedded_database:
        return f"`dljobs down && dljobs up`; a damaged file has to go first: mv {settings.sqlite_path} elsewhere"
    if name in ON_DATABASE:
        return "start that server, or correct DLJOBS_DATABASE_URL: `dljobs config` shows where it comes from"
    if name in ON_REDIS and settings.embedded_redis:
        return "`dljobs down && dljobs up`"
    if name in ON_REDIS:
        return "start that server, or correct DLJOBS_REDIS_URL: `dljobs config` shows where it comes from"
    return "`dljobs config` shows which values are used and where they come from"
