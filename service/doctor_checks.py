"""The checks of `dljobs doctor`: each looks at one thing, says what it found and, where it is not well, the cure.

A check may raise: `doctor.py` turns that into a failed line, so that one thing that is down hides no other.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import text

from . import offers, schema
from .clock import read_now
from .database import Database
from .gpus import list_gpus
from .redis_binary import OLDEST, parse_version
from .redis_connection import refusal
from .settings import Settings, mask
from .states import WorkerState

LITTLE_BYTES = 2 << 30  # a few state_dicts
TOO_LITTLE_BYTES = 100 << 20
SAFE_SQLITE = (3, 51, 3)
LARGE_SKEW_S = 5.0


@dataclass(frozen=True)
class Check:
    """One line of the report. What failed always has a `cure`."""

    name: str
    ok: Literal["ok", "warn", "fail"]
    detail: str
    cure: str = ""


# ---- this machine


def check_python(_settings: Settings) -> Check:
    """The interpreter and our packages, by their metadata: torch is never imported."""
    versions = [f"Python {platform.python_version()}", f"dljobs {_version('dljobs') or 'not installed'}"]
    torch = _version("torch")
    if torch is None:
        detail = ", ".join([*versions, "no torch: this machine can submit jobs and read them, not run a worker"])
        return Check("python", "warn", detail, "to run a worker here: pip install 'dljobs[worker]'")
    return Check("python", "ok", ", ".join([*versions, f"torch {torch}"]))


def check_home(settings: Settings) -> Check:
    """The home: writable, private, with room."""
    check = _check_folder("home", settings.home, "DLJOBS_HOME")
    if check.ok == "ok" and settings.home.is_dir() and settings.home.stat().st_mode & 0o077:
        return Check("home", "warn", f"others may look into {settings.home}", f"chmod 700 {settings.home}")
    return check


def check_data(settings: Settings) -> Check:
    """The folder of the datasets: writable, with room."""
    return _check_folder("data", settings.data_dir, "DLJOBS_DATA_DIR")


def check_devices(_settings: Settings) -> Check:
    """What a worker on this machine would offer."""
    gpus, problem = list_gpus()
    if problem and Path("/proc/driver/nvidia").exists():
        cure = (
            "pip install nvidia-ml-py"
            if "not installed" in problem
            else "`nvidia-smi` says more; reboot after an update"
        )
        return Check("devices", "warn", f"an NVIDIA driver is loaded, but {problem}", cure)
    if not gpus:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return Check("devices", "ok", f"no GPU: a worker here offers CPU stand-ins, which share {cores} cores")
    kinds = Counter(f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in gpus)
    return Check("devices", "ok", ", ".join(f"{number} × {kind}" for kind, number in kinds.items()))


def check_encryption(settings: Settings) -> Check:
    """Whether passwords and data cross a network in the clear, or to whoever claims to be the server."""
    in_the_clear, unverified = [], []
    redis = urlsplit(settings.redis_url)
    if _is_remote(redis.hostname):
        if redis.scheme != "rediss":
            in_the_clear.append(f"Redis at {redis.hostname}")
        elif parse_qs(redis.query).get("ssl_cert_reqs") == ["none"]:
            unverified.append(f"Redis at {redis.hostname}")
    database = urlsplit(settings.database_url)
    if _is_remote(database.hostname):
        mode = (parse_qs(database.query).get("sslmode") or [os.environ.get("PGSSLMODE", "prefer")])[0]
        if mode in {"disable", "allow", "prefer"}:
            in_the_clear.append(f"Postgres at {database.hostname}")
        elif mode != "verify-full":
            unverified.append(f"Postgres at {database.hostname}")
    if not _is_remote(redis.hostname) and not _is_remote(database.hostname):
        return Check("encryption", "ok", "not needed: nothing leaves this machine")
    found = [f"in the clear: {', '.join(in_the_clear)}"] if in_the_clear else []
    found += [f"not verified: {', '.join(unverified)}"] if unverified else []
    if found:
        cure = "rediss://…?ssl_ca_certs=CA.pem and postgresql://…?sslmode=verify-full&sslrootcert=CA.pem: deploy/tls"
        return Check("encryption", "warn", "; ".join(found), cure)
    return Check("encryption", "ok", "TLS, and the servers' certificates are verified")


def _is_remote(host: str | None) -> bool:
    return host is not None and host != "localhost" and not host.startswith("127.") and host != "::1"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_folder(name: str, folder: Path, variable: str) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    elsewhere = f"set {variable} to a folder of yours"
    if not existing.is_dir():
        return Check(name, "fail", f"{existing} is no folder", elsewhere)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "fail", f"cannot write in {existing}", elsewhere)
    free = shutil.disk_usage(existing).free
    room = f"{folder}, {_bytes(free)} free" + ("" if existing == folder else "; made at its first use")
    if free < LITTLE_BYTES:
        ok: Literal["warn", "fail"] = "fail" if free < TOO_LITTLE_BYTES else "warn"
        return Check(name, ok, room, f"free some space (`du -sh {existing}`), or {elsewhere}")
    return Check(name, "ok", room)


def _bytes(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


# ---- the database


def check_database(settings: Settings, database: Database) -> Check:
    """It answers; what it is."""
    with database.read() as connection:
        if database.is_sqlite:
            mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
            detail = f"SQLite in {mode.upper()} mode, {database.engine.url.database}"
            if mode != "wal":
                cure = "close every program that has it open, then `dljobs db upgrade`"
                return Check("database", "warn", f"{detail}: readers block writers", cure)
            return Check("database", "ok", detail)
        version = connection.execute(text("SHOW server_version")).scalar_one()
    return Check("database", "ok", f"PostgreSQL {version}, {mask(settings.database_url)}")


def check_sqlite(_settings: Settings, database: Database) -> Check | None:
    """Which SQLite is linked: older ones can corrupt a WAL that two connections checkpoint at once."""
    if not database.is_sqlite:
        return None
    with database.read() as connection:
        version = connection.execute(text("SELECT sqlite_version()")).scalar_one()
    if parse_version(version) >= SAFE_SQLITE:
        return Check("sqlite", "ok", f"SQLite {version}")
    return Check(
        "sqlite",
        "warn",
        f"SQLite {version} has a rare bug with simultaneous WAL checkpoints, fixed in 3.51.3; dljobs avoids it by "
        "checkpointing from one process at a time",
        "nothing to do, unless other programs write to the file: then a Python with SQLite 3.51.3, or Postgres",
    )


def check_schema(_settings: Settings, database: Database) -> Check:
    """The schema is the one this dljobs speaks."""
    schema.check(database)
    return Check("schema", "ok", f"revision {schema.HEAD}")


def check_clock(_settings: Settings, database: Database) -> Check:
    """This host's clock against the database's, which all moments are read from."""
    with database.read() as connection:
        read_now(connection)  # the first statement pays for the connection
        before = time.time()
        theirs = read_now(connection)
        ours = (before + time.time()) / 2
    skew_s = ours - theirs
    detail = f"{abs(skew_s):.2f} s {'ahead of' if skew_s > 0 else 'behind'} the database's clock"
    if abs(skew_s) > LARGE_SKEW_S:
        detail += "; leases are safe (they know the database's clock only), times in logs are not"
        return Check("clock", "warn", detail, "set the clock: `sudo timedatectl set-ntp true`")
    return Check("clock", "ok", detail)


def check_workers(settings: Settings, database: Database) -> Check:
    """Workers that are heard from, and those that went silent without signing off."""
    with database.read() as connection:
        known = [row for row in offers.list_workers(connection) if row["state"] != WorkerState.OFFLINE]
        devices = Counter(row["worker_id"] for row in offers.list_devices(connection))
    silent = [row for row in known if row["silent_s"] > settings.lease_s]
    alive = [row for row in known if row["silent_s"] <= settings.lease_s]
    detail = ", ".join(f"{row['name']} ({row['state']}, {devices[row['id']]} devices)" for row in alive) or "none alive"
    if silent:
        lost = ", ".join(f"{row['name']} on {row['node']} ({row['silent_s']:.0f} s)" for row in silent)
        return Check(
            "workers", "warn", f"{detail}; silent: {lost}", f"on {silent[0]['node']}: `dljobs worker` or `dljobs up`"
        )
    if not alive:
        return Check(
            "workers", "warn", "none: jobs would wait in the queue", "`dljobs up`, or `dljobs worker` on a node"
        )
    return Check("workers", "ok", detail)


# ---- Redis


def check_redis(settings: Settings, client: Any) -> Check:
    """It answers; its version."""
    try:
        version = str(client.info("server")["redis_version"])
    except Exception as error:
        raise refusal(error, settings) or error from None
    where = "embedded" if settings.embedded_redis else mask(settings.redis_url)
    if parse_version(version) < OLDEST:
        return Check("redis", "fail", f"Redis {version} at {where} is older than 6.2", "upgrade that server")
    return Check("redis", "ok", f"Redis {version}, {where}")


def check_persistence(_settings: Settings, client: Any) -> Check:
    """Queued messages survive a restart of the server. (INFO tells; managed servers refuse CONFIG.)"""
    info = client.info("persistence")
    if not info.get("aof_enabled"):
        detail = "no append-only file: what is queued is lost when the server restarts, and found again by a sweep"
        return Check("persistence", "warn", detail, "`redis-cli config set appendonly yes`, and in redis.conf")
    if info.get("aof_last_write_status") != "ok":
        detail = "the append-only file could not be written: the server refuses messages"
        return Check("persistence", "fail", detail, "free some space on the disk of the Redis server (`df -h`)")
    return Check("persistence", "ok", "append-only file on")


def check_eviction(_settings: Settings, client: Any) -> Check:
    """The server never throws messages away to make room."""
    info = client.info("memory")
    policy, limit = info.get("maxmemory_policy"), int(info.get("maxmemory") or 0)
    detail = f"maxmemory-policy {policy}, " + (f"at most {_bytes(limit)}" if limit else "no limit")
    if policy == "noeviction":
        return Check("eviction", "ok", detail)
    # Celery's keys have no expiry: only the allkeys policies can take them, and only once there is a limit.
    ok: Literal["warn", "fail"] = "fail" if limit and str(policy).startswith("allkeys") else "warn"
    return Check("eviction", ok, detail, "`redis-cli config set maxmemory-policy noeviction`, and in redis.conf")
