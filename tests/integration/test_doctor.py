"""`doctor` with real servers: SQLite and Postgres, Redis by URL and embedded."""

from __future__ import annotations

import dataclasses

from dljobs.service.doctor import examine
from dljobs.service.doctor_checks import Check
from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.settings import Settings
from tests.redis_server import PASSWORD, RedisServer


def look(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in examine(settings)}


def test_servers_by_url(database_settings: Settings, database_kind: str, redis_server: RedisServer) -> None:
    report = look(dataclasses.replace(database_settings, redis_url=redis_server.url))
    for name in ("database", "schema", "clock", "redis", "persistence", "eviction"):
        assert report[name].ok == "ok", report[name]
    assert report["database"].detail.startswith(
        {"sqlite": "SQLite in WAL mode", "postgres": "PostgreSQL "}[database_kind]
    )
    assert ("sqlite" in report) == (database_kind == "sqlite")
    assert "127.0.0.1" in report["redis"].detail
    assert PASSWORD not in repr(report)


def test_a_database_without_tables(empty_settings: Settings, database_kind: str) -> None:
    report = look(empty_settings)
    if database_kind == "postgres":
        assert (report["database"].ok, report["schema"].ok) == ("ok", "fail")
        assert "dljobs db upgrade" in report["schema"].cure
        assert report["workers"].detail == "not known while schema fails"
    else:
        assert report["database"].ok == "fail"
        assert "dljobs up" in report["database"].cure


def test_a_wrong_password(database_settings: Settings, redis_server: RedisServer) -> None:
    url = redis_server.url.replace(PASSWORD, "mistyped")
    check = look(dataclasses.replace(database_settings, redis_url=url))["redis"]
    assert (check.ok, "DLJOBS_REDIS_URL" in check.cure, "mistyped" in repr(check)) == ("fail", True, False)


def test_the_embedded_redis(database_settings: Settings) -> None:
    server = EmbeddedRedis(database_settings.home)
    assert look(database_settings)["redis"].cure == "`dljobs up`"
    server.start()
    try:
        report = look(database_settings)
        assert [report[name].ok for name in ("redis", "persistence", "eviction")] == ["ok"] * 3
    finally:
        server.stop()
