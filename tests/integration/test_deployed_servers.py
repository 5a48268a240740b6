"""The configuration of the servers in deploy/, as it is, by a Postgres and a Redis that have TLS of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import kombu.pools
import pytest
import yaml

from dljobs.errors import DljobsError, Unreachable
from dljobs.service import doctor, schema
from dljobs.service.database import open_database
from dljobs.service.doorbell import Doorbell
from dljobs.service.redis_connection import check_accepted
from dljobs.service.settings import Settings
from tests.databases import settings_for
from tests.deployment import DEPLOY, PASSWORDS, make_certificates
from tests.redis_server import free_port
from tests.waiting import wait_until

REDIS_PASSWORD = "of redis"


@contextmanager
def running(command: list[str | Path], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, until the block ends; SIGTERM must be enough to stop it."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
    try:
        yield server
        server.terminate()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def configuration(name: str, changes: dict[str, str]) -> str:
    """A file of deploy/ with its places changed, each of which it must have."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


# ---- Postgres


@dataclass
class Postgres:
    """A server by postgresql.conf and pg_hba.conf, with roles by roles.sql."""

    folder: Path
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"), key=lambda path: int(path.parts[-3]))
        on_path = shutil.which("pg_config")
        candidates = [path.parent for path in found] or ([Path(on_path).parent] if on_path else [])
        if not candidates or not (candidates[-1] / "initdb").exists():
            pytest.skip("no Postgres of the system")
        self.programs = candidates[-1]
        how = subprocess.run([self.programs / "pg_config", "--configure"], capture_output=True, text=True, check=True)
        if "openssl" not in how.stdout:
            pytest.skip("the system's Postgres has no TLS")
        # It refuses to run as root.
        self.as_owner = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        )

    def run(self, program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*self.as_owner, self.programs / program, *arguments]
        values = {**os.environ, "PGHOST": str(self.folder), "PGPORT": str(self.port), **environment}
        return subprocess.run(command, env=values, capture_output=True, text=True, check=False, cwd=self.folder)

    def url(self, role: str, *, password: str = "", options: str = "") -> str:
        password = quote(password or PASSWORDS[f"{role.upper()}_PASSWORD"], safe="")
        options = options or f"sslmode=verify-full&sslrootcert={self.folder / 'tls' / 'ca.pem'}"
        return f"postgresql://dljobs_{role}:{password}@localhost:{self.port}/dljobs?hostaddr=127.0.0.1&{options}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="dljobs-pg-"))
    try:
        server = Postgres(folder)
        make_certificates(folder / "tls")
        shutil.copy(DEPLOY / "postgres" / "roles.sql", folder)
        shutil.copy(DEPLOY / "postgres" / "pg_hba.conf", folder)
        changes = {
            "/etc/postgresql/pg_hba.conf": str(folder / "pg_hba.conf"),
            "/tls/": f"{folder}/tls/",
            "= '*'": "= '127.0.0.1'",
            "'2GB'": "'32MB'",
        }
        more = f"\nport = {server.port}\nunix_socket_directories = '{folder}'\n"
        (folder / "postgresql.conf").write_text(configuration("postgres/postgresql.conf", changes) + more)
        if server.as_owner:
            subprocess.run(["chown", "-R", "postgres", folder], check=True)
        assert server.run("initdb", "-D", folder / "data", "--username=postgres").returncode == 0
        command = [*server.as_owner, server.programs / "postgres", "-D", folder / "data"]
        command += ["-c", f"config_file={folder / 'postgresql.conf'}"]
        with running(command, folder / "log", {}):
            wait_until(lambda: server.run("pg_isready").returncode == 0, 20, (folder / "log").read_text)
            if server.run("createdb", "dljobs", PGUSER="postgres").returncode:
                pytest.skip("the superuser of pg_hba.conf is the system's user postgres, which is not to be had")
            yield server
    finally:
        shutil.rmtree(folder)


def make_roles(server: Postgres, **passwords: str) -> None:
    roles = ["-X", "-q", "-d", "dljobs", "-f", server.folder / "roles.sql"]
    done = server.run("psql", *roles, PGUSER="postgres", **passwords)
    assert done.returncode == 0, done.stderr


def test_postgres(postgres: Postgres, tmp_path: Path) -> None:
    make_roles(postgres, **PASSWORDS)
    schema.upgrade(settings_for(tmp_path, postgres.url("admin")))
    make_roles(postgres)
    for role in ("worker", "client", "viewer"):
        schema.open_checked(settings_for(tmp_path, postgres.url(role))).close()
    report = doctor.examine(settings_for(tmp_path, postgres.url("client")))
    assert {check.name: check.ok for check in report}["database"] == "ok"
    for url, words in (
        (postgres.url("client", password="mistyped"), "refuses this user or password"),
        (postgres.url("client", options="sslmode=disable"), "takes no connection without TLS"),
        (postgres.url("client", options=f"sslmode=verify-full&sslrootcert={tmp_path / 'no'}"), "file is not there"),
        (postgres.url("client").replace("/dljobs?", "/postgres?"), "lets this user in from nowhere near here"),
    ):
        database = open_database(settings_for(tmp_path, url))
        with pytest.raises(Unreachable, match=words), database.read():
            pass
        database.close()


# ---- Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port and the folder of a server by redis.conf, started as compose.yaml says."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    make_certificates(folder / "tls")
    (folder / "data").mkdir()
    places = {"/tls/": f"{folder}/tls/", "dir /data": f"dir {folder / 'data'}", "6379": f"{port}\nbind 127.0.0.1"}
    # The port stands in the comment, too.
    (folder / "redis.conf").write_text(configuration("redis/redis.conf", places))
    shell, option, script = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]["redis"][
        "command"
    ]
    script = script.replace("$$", "$").replace("/etc/redis/redis.conf", str(folder / "redis.conf"))
    log = folder / "log"
    with running([shell, option, script], log, {"REDIS_PASSWORD": f"'{REDIS_PASSWORD}'"}) as server:
        wait_until(lambda: server.poll() is not None or b"Ready to accept" in log.read_bytes(), 20, log.read_text)
        if server.poll() is not None and "tls-port" in log.read_text():
            pytest.skip("the redis-server on PATH has no TLS")
        yield port, folder


def test_redis(redis: tuple[int, Path], tmp_path: Path) -> None:
    port, folder = redis

    def settings(password: str = REDIS_PASSWORD) -> Settings:
        url = f"rediss://:{quote(password)}@localhost:{port}/0?ssl_ca_certs={folder / 'tls' / 'ca.pem'}"
        return settings_for(tmp_path, redis_url=url)

    check_accepted(settings())
    assert Doorbell(settings()).ring_schedule()
    assert any((folder / "data").rglob("*.aof*"))
    report = {check.name: check.ok for check in doctor.examine(settings())}
    assert {report[name] for name in ("redis", "persistence", "eviction")} == {"ok"}
    with pytest.raises(DljobsError, match="refuses the password"):
        check_accepted(settings(password="mistyped"))
    kombu.pools.reset()  # its pools do not tell two URLs apart that differ in TLS alone
    in_the_clear = settings_for(tmp_path, redis_url=f"redis://:{quote(REDIS_PASSWORD)}@localhost:{port}/0")
    assert not Doorbell(in_the_clear).ring_schedule()
