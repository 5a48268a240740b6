"""The roles of deploy/postgres/roles.sql on a real Postgres: each can do its work, and nothing more; and a backup."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from dljobs.errors import DljobsError, NotAllowed
from dljobs.service import artifacts, control, garbage, jobs, offers, runs, schema
from dljobs.service.database import Database, open_database
from dljobs.service.doorbell import Doorbell
from dljobs.service.evaluations import NewEvaluation, add_evaluation
from dljobs.service.settings import Settings
from dljobs.service.states import JobState
from dljobs.service.submission import Request, enqueue, prepare
from dljobs.service.tables import metadata
from tests.databases import SERVER_VARIABLE, PostgresServer, settings_for
from tests.deployment import find_postgres_program, make_roles
from tests.service_world import World

WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
# A table that is new stands here or among those of roles.sql that clients write.
OF_WORKERS_AND_ADMIN = {
    *(
        "artifact_blobs",
        "artifacts",
        "blobs",
        "devices",
        "drained_nodes",
        "kept_devices",
        "leases",
        "ledger",
        "logs",
        "metrics",
    ),
    *("policy", "quarantines", "run_parts", "runs", "scores", "verifications", "workers"),
}
OF_CLIENTS = {
    "jobs": {"INSERT", "UPDATE"},
    "dependencies": {"INSERT"},
    "set_dependencies": {"INSERT"},
    "sets": {"INSERT"},
    "evaluations": {"INSERT"},
    "events": {"INSERT"},
    "sources": {"INSERT"},
}


@dataclass
class Roles:
    """A database with its roles, set up as the page says."""

    superuser_url: str
    home: Path

    def settings(self, role: str) -> Settings:
        return settings_for(self.home, self.url(role), user="ada")

    def url(self, role: str) -> str:
        return make_url(self.superuser_url).set(username=f"dljobs_{role}").render_as_string(hide_password=False)

    @contextmanager
    def open(self, role: str) -> Iterator[Database]:
        database = open_database(self.settings(role))
        yield database
        database.close()


@pytest.fixture(scope="module")
def roles(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Roles:
    if SERVER_VARIABLE in os.environ:
        pytest.skip("roles belong to a whole server, and this one is somebody else's")
    found = Roles(postgres_server.url_of_new_database(), tmp_path_factory.mktemp("home"))
    make_roles(found.superuser_url)
    schema.upgrade(found.settings("admin"))
    make_roles(found.superuser_url, {})
    return found


@pytest.fixture(autouse=True)
def _nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doorbell, "_ring", lambda *_what: True)


def test_each_table_is_one_of_clients_or_not() -> None:
    assert set(metadata.tables) == OF_WORKERS_AND_ADMIN | OF_CLIENTS.keys(), "may clients write it? See roles.sql"


@pytest.mark.parametrize(
    ("role", "of_table"),
    [
        ("worker", lambda _table: {"INSERT", "UPDATE", "DELETE"}),
        ("client", lambda table: OF_CLIENTS.get(table, set())),
        ("viewer", lambda _table: set()),
    ],
)
def test_what_a_role_may_write(roles: Roles, role: str, of_table: Callable[[str], set[str]]) -> None:
    asked = text("SELECT has_table_privilege(:role, :table, :privilege)")
    with roles.open("admin") as database, database.read() as connection:
        for table in metadata.tables:
            values = {"role": f"dljobs_{role}", "table": table}
            may = {what for what in WRITES if connection.execute(asked, {**values, "privilege": what}).scalar()}
            assert may == of_table(table), table
            assert connection.execute(asked, {**values, "privilege": "SELECT"}).scalar()
        version = [{"role": f"dljobs_{role}", "table": "dljobs_version", "privilege": what} for what in WRITES]
        assert not any(connection.execute(asked, values).scalar() for values in version)


@pytest.mark.parametrize("role", ["worker", "client", "viewer"])
def test_nobody_but_the_admin_changes_the_schema(roles: Roles, role: str) -> None:
    statements = (
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "DROP TABLE jobs",
        "ALTER TABLE jobs ADD COLUMN mine int",
        "UPDATE dljobs_version SET version_num = '0001'",
        "SET ROLE dljobs_admin",
    )
    with roles.open(role) as database:
        for statement in statements:
            refused(database, lambda connection, statement=statement: connection.execute(text(statement)))


def test_strangers_do_not_get_in_and_passwords_are_not_kept_in_the_clear(roles: Roles) -> None:
    database = open_database(settings_for(roles.home, roles.superuser_url))
    with database.read() as connection:
        assert not connection.execute(
            text("SELECT has_database_privilege('public', current_database(), 'CONNECT')")
        ).scalar()
        kept = connection.execute(text("SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'dljobs%'")).scalars()
        assert [password.split("$")[0] for password in kept] == ["SCRAM-SHA-256"] * 4
        attributes = text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'dljobs%' AND (rolsuper OR rolcreaterole)")
        assert connection.execute(attributes).all() == []
    database.close()


def test_a_jobs_whole_life(roles: Roles, tmp_path: Path) -> None:
    """Submitted, changed, looked at and measured by a client; run by a worker."""
    own = tmp_path / "net.py"
    own.write_text("from torch import nn\n\n\ndef net(in_features: int, num_classes: int) -> nn.Module:\n    ...\n")
    doorbell = Doorbell(roles.settings("client"))
    with roles.open("client") as client, roles.open("worker") as worker:
        world = World(worker, roles.settings("worker"))
        world.worker()

        def submit(request: Request) -> int:
            return enqueue(client, doorbell, prepare(request, "ada")).job_id

        first = submit(Request("lenet"))
        second = submit(Request(f"{own}:net", after=(str(first),)))
        control.hold(client, second, actor="ada")
        control.release(client, doorbell, second, actor="ada")
        control.update(client, doorbell, second, {"priority": 10}, actor="ada")
        control.cancel(client, doorbell, second, actor="ada")
        control.retry(client, doorbell, second, actor="ada", fresh=True)
        control.cancel(client, doorbell, second, actor="ada")

        key = world.start()
        with client.write() as connection:
            runs.request_checkpoint(connection, first, actor="ada")
        world.write_log(key, (0, "one line"))
        world.write_points(key, "train", "loss", {1: 0.5})
        world.store(key, 1, accuracy=0.9)
        world.succeed(key, accuracy=0.9)

        with client.read() as connection:
            assert jobs.get_job(connection, first)["state"] == JobState.SUCCEEDED
            (weights,) = artifacts.list_artifacts(connection, first)
        artifacts.ArtifactStore(client).fetch(weights["id"], tmp_path / "weights")
        with client.write() as connection:
            result = {"loss": 0.5, "num_samples": 9, "seconds": 1.0}
            add_evaluation(connection, NewEvaluation(weights["id"], "digits", {}, result, "ada"))


def test_what_a_client_may_not(roles: Roles) -> None:
    doorbell = Doorbell(roles.settings("client"))
    with roles.open("worker") as worker, roles.open("client") as client:
        World(worker, roles.settings("worker")).worker("w3", node="node3")
        for table in sorted(OF_WORKERS_AND_ADMIN):
            refused(client, lambda connection, table=table: connection.execute(text(f"DELETE FROM {table}")))
        with pytest.raises(NotAllowed, match="does not let dljobs_client do this: permission denied") as caught:
            control.drain(client, doorbell, "node3", actor="eve", reason="", evict=True)
        assert "DLJOBS_DATABASE_URL" in caught.value.hint


def test_the_admin_does_what_operators_do(roles: Roles) -> None:
    doorbell = Doorbell(roles.settings("admin"))
    with roles.open("worker") as worker, roles.open("admin") as admin:
        World(worker, roles.settings("worker")).worker("w4", node="node4")
        control.drain(admin, doorbell, "node4", actor="root", reason="new fan", evict=True)
        control.undrain(admin, doorbell, "node4", actor="root")
        garbage.collect_garbage(admin)


def test_a_viewer_reads(roles: Roles) -> None:
    with roles.open("viewer") as viewer:
        with viewer.read() as connection:
            offers.list_workers(connection)
        with pytest.raises(NotAllowed):
            enqueue(viewer, Doorbell(roles.settings("viewer")), prepare(Request("lenet"), "x"))


def test_a_backup_is_restored_whole(roles: Roles, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The two commands of deploy/backup.md, while the service may go on."""
    with roles.open("worker") as worker:
        world = World(worker, roles.settings("worker"))
        world.worker("w2", node="node2")
        job_id = world.trained_job({"weight": torch.arange(1000.0)})
        with worker.read() as connection:
            (weights,) = artifacts.list_artifacts(connection, job_id)
        artifacts.ArtifactStore(worker).fetch(weights["id"], tmp_path / "before")
    restored = Roles(postgres_server.url_of_new_database(), tmp_path)
    command = [find_postgres_program("pg_dump"), "--format=custom", "--file", tmp_path / "dump", roles.url("admin")]
    subprocess.run(command, check=True)
    # First, so that who owns the tables is there to be given them.
    make_roles(restored.superuser_url)
    command = [find_postgres_program("pg_restore"), "--exit-on-error", "-d", restored.superuser_url, tmp_path / "dump"]
    subprocess.run(command, check=True)
    make_roles(restored.superuser_url, {})
    with restored.open("client") as client:
        schema.check(client)
        artifacts.ArtifactStore(client).fetch(weights["id"], tmp_path / "after")
        new = prepare(Request("lenet"), "ada")
        assert enqueue(client, Doorbell(restored.settings("client")), new).job_id > job_id
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()


def refused(database: Database, work: Callable[[Connection], object]) -> None:
    words = r"permission denied|must be owner|read-only transaction"
    with pytest.raises((DljobsError, DBAPIError), match=words), database.write() as connection:
        work(connection)
