"""TLS to Redis and Postgres: who is trusted, and what is said of a server that is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kombu.pools
import pytest

from dljobs.errors import DljobsError, Unreachable
from dljobs.service import doctor
from dljobs.service.database import open_database
from dljobs.service.doorbell import Doorbell
from dljobs.service.redis_connection import check_accepted
from dljobs.service.settings import Settings
from tests.databases import PostgresServer, settings_for
from tests.deployment import listening_at, make_certificates
from tests.redis_server import PASSWORD, RedisServer, free_port
from tests.tls_front import TlsFront


@dataclass
class TlsServers:
    """A Redis and a Postgres on TLS ports, with certificates for `localhost` that `authority` has signed."""

    redis: int
    postgres: int
    database: str
    authority: Path
    stranger: Path  # an authority that has signed nothing here
    home: Path

    def redis_url(
        self, *, scheme: str = "rediss", password: str = PASSWORD, host: str = "localhost", port: int = 0, ca: str = ""
    ) -> str:
        return f"{scheme}://:{password}@{host}:{port or self.redis}/0?ssl_ca_certs={ca or self.authority}"

    def postgres_url(self, *, host: str = "localhost", mode: str = "verify-full", ca: str = "") -> str:
        options = f"hostaddr=127.0.0.1&sslmode={mode}&sslrootcert={ca or self.authority}"
        return f"postgresql://postgres@{host}:{self.postgres}/{self.database}?{options}"

    def with_stranger(self, changed: dict[str, str]) -> dict[str, Any]:
        return {name: str(self.stranger) if value == "STRANGER" else value for name, value in changed.items()}

    def settings(self, *, redis_url: str = "", database_url: str = "") -> Settings:
        urls = {"redis_url": redis_url or self.redis_url(), "database_url": database_url or self.postgres_url()}
        return settings_for(self.home, **urls)


@pytest.fixture(scope="module")
def servers(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsServers]:
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    url = postgres_server.url_of_new_database(migrated=True)
    redis = TlsFront(folder, redis_server.port)
    postgres = TlsFront(folder, listening_at(url), is_postgres=True)
    yield TlsServers(
        redis=redis.port,
        postgres=postgres.port,
        database=url.rsplit("/", 1)[-1].split("?")[0],
        authority=folder / "ca.pem",
        stranger=make_certificates(tmp_path_factory.mktemp("stranger")) / "ca.pem",
        home=tmp_path_factory.mktemp("home"),
    )
    redis.close()
    postgres.close()


@pytest.fixture(autouse=True)
def _no_connections_of_others() -> None:
    kombu.pools.reset()  # its pools do not tell two URLs apart that differ in TLS alone


def test_both_servers_are_reached_over_tls(servers: TlsServers) -> None:
    settings = servers.settings()
    check_accepted(settings)
    assert Doorbell(settings).ring_schedule()
    report = {check.name: check for check in doctor.examine(settings)}
    assert {report[name].ok for name in ("redis", "database", "schema")} == {"ok"}, report


def test_redis_is_verified_by_the_systems_authorities_unless_another_is_named(servers: TlsServers) -> None:
    url, _options = servers.redis_url().split("?")
    refuses(servers.settings(redis_url=url), "no authority known here has signed", "ssl_ca_certs=")


@pytest.mark.parametrize(
    ("changed", "words", "cure"),
    [
        ({"ca": "STRANGER"}, "no authority known here has signed", "ssl_ca_certs="),
        ({"ca": "/no/such/ca.pem"}, "there is no file /no/such/ca.pem", "ssl_ca_certs"),
        ({"host": "127.1"}, "for another name", "the name that the certificate was made for"),
        ({"password": "mistyped"}, "refuses the password", "DLJOBS_REDIS_URL"),
        ({"password": ""}, "wants a password", "DLJOBS_REDIS_URL"),
    ],
)
def test_a_redis_that_is_refused(servers: TlsServers, changed: dict[str, str], words: str, cure: str) -> None:
    url = servers.redis_url(**servers.with_stranger(changed))
    refuses(servers.settings(redis_url=url), words, cure)


def refuses(settings: Settings, words: str, cure: str) -> None:
    """A worker does not start, a ring does not get out, and `doctor` fails, each with these words."""
    with pytest.raises(DljobsError) as caught:
        check_accepted(settings)
    assert words in caught.value.message
    assert cure in caught.value.hint
    doorbell = Doorbell(settings)
    assert not doorbell.ring_schedule()
    assert words in doorbell.problem
    check = next(check for check in doctor.examine(settings) if check.name == "redis")
    assert (check.ok, words in check.detail, cure in check.cure) == ("fail", True, True), check
    assert "mistyped" not in repr(check)


def test_a_redis_that_is_down_is_waited_for(servers: TlsServers) -> None:
    check_accepted(servers.settings(redis_url=servers.redis_url(port=free_port())))


@pytest.mark.parametrize(
    ("changed", "words", "cure"),
    [
        ({"ca": "STRANGER"}, "no authority known here has signed", "sslrootcert="),
        ({"ca": "/no/such/ca.pem"}, "the authority's file is not there", "sslrootcert="),
        ({"host": "elsewhere"}, "for another name", "the name that the certificate was made for"),
    ],
)
def test_a_postgres_that_is_refused(servers: TlsServers, changed: dict[str, str], words: str, cure: str) -> None:
    url = servers.postgres_url(**servers.with_stranger(changed))
    settings = servers.settings(database_url=url)
    database = open_database(settings)
    with pytest.raises(Unreachable) as caught, database.read():
        pass
    database.close()
    assert words in caught.value.message
    assert cure in caught.value.hint
    check = next(check for check in doctor.examine(settings) if check.name == "database")
    assert (check.ok, words in check.detail) == ("fail", True)


def test_a_postgres_without_tls(servers: TlsServers, redis_server: RedisServer) -> None:
    """Who wants to verify does not fall back to plain text."""
    front = TlsFront(servers.authority.parent, redis_server.port, is_postgres=True, answer=b"N")
    url = servers.postgres_url().replace(f":{servers.postgres}/", f":{front.port}/")
    database = open_database(servers.settings(database_url=url))
    with pytest.raises(Unreachable, match="does not speak TLS"), database.read():
        pass
    database.close()
    front.close()
