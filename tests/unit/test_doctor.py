"""What `doctor` says of each thing it looks at, with servers that are not there; it works when everything is down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from dljobs.errors import Unreachable
from dljobs.service import doctor, doctor_checks, registration, schema
from dljobs.service.clock import now
from dljobs.service.database import Database, open_database
from dljobs.service.doctor_checks import Check
from dljobs.service.gpus import Gpu
from dljobs.service.process_mark import ProcessMark
from dljobs.service.redis_connection import open_redis
from dljobs.service.registration import DeviceInfo, WorkerInfo
from dljobs.service.settings import Settings, load_settings
from dljobs.service.tables import workers

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    return lambda **flags: load_settings({"home": str(tmp_path / "home"), **flags}, {})


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """Settings with a database of the right schema."""
    settings = make_settings()
    schema.upgrade(settings)
    return settings


@pytest.fixture
def database(settings: Settings):
    database = open_database(settings)
    yield database
    database.close()


class FakeRedis:
    """A client whose INFO says what a test wants."""

    def __init__(self, **changed: object) -> None:
        self._info = {
            "redis_version": "7.4.2",
            "aof_enabled": 1,
            "aof_last_write_status": "ok",
            "maxmemory_policy": "noeviction",
            "maxmemory": 0,
            **changed,
        }

    def info(self, _section: str) -> dict[str, object]:
        return self._info

    def close(self) -> None:
        pass


def by_name(report: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in report}


def everything_that_is_checked() -> set[str]:
    return {*doctor.ON_MACHINE, *doctor.ON_DATABASE, *doctor.ON_REDIS}


def test_with_everything_down_each_failed_line_names_its_cure(make_settings: MakeSettings) -> None:
    report = doctor.examine(make_settings())
    assert not doctor.is_well(report)
    assert set(by_name(report)) == everything_that_is_checked()
    for check in report:
        assert check.ok == "ok" or check.cure or "not known while" in check.detail, check
    assert by_name(report)["redis"].cure == "`dljobs up`"
    assert "dljobs up" in by_name(report)["database"].cure
    assert not make_settings().home.exists()  # it has only looked


def test_urls_that_lead_nowhere(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(
        database_url="postgresql://me:hunter2@127.0.0.1:1/jobs", redis_url="redis://:hunter2@127.0.0.1:1/0"
    )
    report = by_name(doctor.examine(settings))
    assert report["database"].ok == report["redis"].ok == "fail"
    assert "DLJOBS_DATABASE_URL" in report["database"].cure
    assert "DLJOBS_REDIS_URL" in report["redis"].cure
    assert "hunter2" not in repr(report)


@pytest.mark.parametrize("url", ["nonsense", "amqp://guest:hunter2@host"])
def test_a_redis_url_that_is_none(make_settings: MakeSettings, url: str) -> None:
    check = by_name(doctor.examine(make_settings(redis_url=url)))["redis"]
    assert (check.ok, "redis://" in check.cure, "hunter2" in repr(check)) == ("fail", True, False)


def test_a_database_file_that_is_none(make_settings: MakeSettings) -> None:
    settings = make_settings()
    settings.home.mkdir()
    settings.sqlite_path.write_bytes(b"not a database at all, but long enough to look at" * 100)
    check = by_name(doctor.examine(settings))["database"]
    assert check.ok == "fail"
    assert f"mv {settings.sqlite_path}" in check.cure


def test_a_check_that_raises_hides_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Check:
        raise RuntimeError("disk on fire\nsecond line")

    monkeypatch.setitem(doctor.ON_MACHINE, "home", broken)
    monkeypatch.setitem(doctor.ON_DATABASE, "schema", broken)
    report = by_name(doctor.examine(settings))
    assert report["home"].detail == report["schema"].detail == "RuntimeError: disk on fire"
    assert report["clock"].ok == "ok"
    assert set(report) == everything_that_is_checked()


def test_a_healthy_service(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.chmod(0o700)
    register(database)
    monkeypatch.setattr(doctor, "open_redis", lambda _settings, **_: FakeRedis())
    report = doctor.examine(settings)
    assert doctor.is_well(report)
    assert [
        check for check in report if check.ok != "ok" and check.name not in {"sqlite", "python", "home", "data"}
    ] == []
    assert "WAL" in by_name(report)["database"].detail
    assert "lab-1 (online, 2 devices)" in by_name(report)["workers"].detail


# ---- one thing at a time


def test_torch_is_looked_up_and_never_imported(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks.check_python(make_settings()).detail.startswith(f"Python {sys.version.split()[0]}, dljobs ")
    monkeypatch.setattr(doctor_checks, "_version", lambda name: None if name == "torch" else "1.0")
    check = doctor_checks.check_python(make_settings())
    assert (check.ok, "dljobs[worker]" in check.cure) == ("warn", True)

    code = "import sys; from dljobs.service import doctor; from dljobs.service.settings import load_settings;"
    code += (
        "doctor.examine(load_settings()); print([m for m in ('torch', 'celery', 'kombu', 'numpy') if m in sys.modules])"
    )
    environment = {**os.environ, "DLJOBS_HOME": str(make_settings().home)}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_home_others_can_read(settings: Settings) -> None:
    settings.home.chmod(0o755)
    check = doctor_checks.check_home(settings)
    assert (check.ok, check.cure) == ("warn", f"chmod 700 {settings.home}")


def test_folders_that_cannot_be_used(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    check = doctor_checks.check_data(make_settings(data_dir=str(tmp_path / "file" / "data")))
    assert (check.ok, "DLJOBS_DATA_DIR" in check.cure) == ("fail", True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot write" in doctor_checks.check_home(make_settings()).detail


@pytest.mark.parametrize(("free", "ok"), [(1 << 20, "fail"), (1 << 30, "warn"), (1 << 40, "ok")])
def test_free_space(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, free: int, ok: str) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    assert doctor_checks.check_data(make_settings()).ok == ok


def test_devices(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(index, f"GPU-{index}", "NVIDIA H100", 80 << 30) for index in range(2)]
    monkeypatch.setattr(doctor_checks, "list_gpus", lambda: (gpus, ""))
    assert doctor_checks.check_devices(make_settings()).detail == "2 × NVIDIA H100 (80 GiB)"
    monkeypatch.setattr(doctor_checks, "list_gpus", lambda: ([], ""))
    assert "CPU stand-ins" in doctor_checks.check_devices(make_settings()).detail
    monkeypatch.setattr(
        doctor_checks, "list_gpus", lambda: ([], "NVML does not start: Driver/library version mismatch")
    )
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    check = doctor_checks.check_devices(make_settings())
    assert (check.ok, "nvidia-smi" in check.cure) == ("warn", True)


@pytest.mark.parametrize(("version", "ok"), [("3.40.1", "warn"), ("3.51.2", "warn"), ("3.51.3", "ok"), ("4.0.0", "ok")])
def test_the_sqlite_that_is_linked(settings: Settings, version: str, ok: str) -> None:
    class FakeDatabase:
        is_sqlite = True

        def read(self) -> Any:
            return self

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, _statement: object) -> Any:
            return self

        def scalar_one(self) -> str:
            return version

    check = doctor_checks.check_sqlite(settings, FakeDatabase())  # type: ignore[arg-type]
    assert check is not None
    assert (check.ok, version in check.detail, bool(check.cure)) == (ok, True, ok == "warn")


def test_another_schema(settings: Settings, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE dljobs_version SET version_num = '9999'")
    report = by_name(doctor.examine(settings))
    assert (report["schema"].ok, "pip install" in report["schema"].cure) == ("fail", True)
    assert report["workers"].detail == "not known while schema fails"
    schema_of_nobody = schema.SchemaMismatch("the database has no dljobs tables", "run `dljobs db upgrade`")
    assert doctor._failed("schema", schema_of_nobody, settings).cure == "run `dljobs db upgrade`"


def test_clock_skew(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks.check_clock(settings, database).ok == "ok"
    monkeypatch.setattr(doctor_checks, "read_now", lambda _connection: 1000.0)
    check = doctor_checks.check_clock(settings, database)
    assert (check.ok, "ahead of" in check.detail, "timedatectl" in check.cure) == ("warn", True, True)


def register(database: Database) -> None:
    devices = [DeviceInfo(f"cpu-lab-1-{position}", "cpu", "CPU stand-in", position, None) for position in range(2)]
    info = WorkerInfo("lab-1", "lab", ProcessMark(os.getpid(), "born"), {}, devices)
    with database.write() as connection:
        registration.register(connection, info, stale_after_s=60, is_alive=lambda *_: True)


def test_workers_alive_and_silent(settings: Settings, database: Database) -> None:
    assert "dljobs worker" in doctor_checks.check_workers(settings, database).cure
    register(database)
    assert doctor_checks.check_workers(settings, database).ok == "ok"
    with database.write() as connection:
        connection.execute(workers.update().values(heartbeat_at=now() - settings.lease_s - 100))
    check = doctor_checks.check_workers(settings, database)
    assert (check.ok, "lab-1 on lab (160 s)" in check.detail) == ("warn", True)


@pytest.mark.parametrize(
    ("name", "changed", "ok"),
    [
        ("redis", {}, "ok"),
        ("redis", {"redis_version": "6.0.16"}, "fail"),
        ("persistence", {}, "ok"),
        ("persistence", {"aof_enabled": 0}, "warn"),
        ("persistence", {"aof_last_write_status": "err"}, "fail"),
        ("eviction", {}, "ok"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, "warn"),
        ("eviction", {"maxmemory_policy": "allkeys-lru", "maxmemory": 1 << 30}, "fail"),
        ("eviction", {"maxmemory_policy": "volatile-lru", "maxmemory": 1 << 30}, "warn"),
    ],
)
def test_redis(make_settings: MakeSettings, name: str, changed: dict[str, object], ok: str) -> None:
    check = doctor.ON_REDIS[name](make_settings(redis_url="redis://:hunter2@broker/0"), FakeRedis(**changed))
    assert check is not None
    assert (check.name, check.ok, bool(check.cure)) == (name, ok, ok != "ok")
    assert "hunter2" not in check.detail


def test_a_unix_socket_in_the_words_of_kombu(make_settings: MakeSettings) -> None:
    client = open_redis(make_settings(redis_url="redis+socket://:pw@/run/redis.sock?virtual_host=3"))
    options = client.connection_pool.connection_kwargs
    assert (options["path"], options["password"], int(options["db"])) == ("/run/redis.sock", "pw", 3)


def test_an_embedded_redis_that_does_not_run(make_settings: MakeSettings) -> None:
    with pytest.raises(Unreachable, match="does not run"):
        open_redis(make_settings())


@pytest.mark.parametrize(
    ("redis_url", "database_url", "ok", "words"),
    [
        ("", "", "ok", "not needed"),
        ("redis://:pw@127.0.0.1:6379/0", "postgresql://me:pw@localhost/jobs", "ok", "not needed"),
        ("redis://:pw@head/0", "postgresql://me:pw@head/jobs", "warn", "the clear: Redis at head, Postgres at head"),
        ("rediss://:pw@head/0", "postgresql://me:pw@head/jobs?sslmode=require", "warn", "verified: Postgres at head"),
        ("rediss://:pw@head/0?ssl_cert_reqs=none", "", "warn", "not verified: Redis at head"),
        ("rediss://:pw@head/0", "postgresql://me:pw@head/jobs?sslmode=verify-full", "ok", "verified"),
    ],
)
def test_encryption(make_settings: MakeSettings, redis_url: str, database_url: str, ok: str, words: str) -> None:
    check = doctor_checks.check_encryption(make_settings(redis_url=redis_url, database_url=database_url))
    assert (check.ok, words in check.detail, "pw" in check.detail) == (ok, True, False), check


# ---- the command


@pytest.fixture
def run_command(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`dljobs doctor …`: its exit code and what it printed."""
    from dljobs.service.cli.doctor import doctor as command

    def run(*arguments: str) -> tuple[int, str]:
        code = command.main(list(arguments), obj=make_settings(), standalone_mode=False)
        return int(code), capsys.readouterr().out

    return run


def test_the_command_fails_when_something_failed(run_command: Callable[..., tuple[int, str]]) -> None:
    code, output = run_command()
    assert code == 1
    assert "→ `dljobs up`" in output


def test_json(run_command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_command("--json")
    checks = json.loads(output)["checks"]
    assert code == 1
    assert {line["name"] for line in checks} == everything_that_is_checked()
    assert all(set(line) == {"name", "ok", "detail", "cure"} for line in checks)

    monkeypatch.setattr(doctor, "examine", lambda _settings, **_: [Check("python", "ok", "3.11")])
    assert run_command("--json")[0] == 0


@pytest.mark.parametrize("width", [60, 100])
def test_the_table_fits_the_terminal(
    run_command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    _, output = run_command()
    assert max(len(line) for line in click.unstyle(output).splitlines()) <= width


def test_a_pipe_gets_each_cure_unbroken(run_command: Callable[..., tuple[int, str]]) -> None:
    _, output = run_command()
    assert "\x1b" not in output
    cures = [line.partition("→ ")[2] for line in output.splitlines() if "→ " in line]
    assert "start the service with `dljobs up`" in cures
