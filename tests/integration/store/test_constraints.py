"""The truths hold against raw SQL too: what no code of ours would write, the database refuses."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from dljobs.service.database import Database

from .rows import add_worker, place, submit

EVENT = "INSERT INTO events (at, actor, kind, reason, job_id) VALUES (0, 'x', 'x', 'x', {job_id})"
LEASE = (
    "INSERT INTO leases (run_id, device_id, token, acquired_at, expires_at) VALUES ({run_id}, {device_id}, 't', 0, 9)"
)
RUN = (
    "INSERT INTO runs (job_id, number, state, token, worker_id, created_at) "
    "VALUES ({job_id}, {number}, {state}, 't', 1, 0)"
)
ARTIFACT = (
    "INSERT INTO artifacts (run_id, kind, name, state, step, epoch, metrics_json, created_at) "
    "VALUES ({run_id}, {kind}, 'a', {state}, 0, 0, '{{}}', 0)"
)


def refuses(database: Database, statement: str) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.exec_driver_sql(statement)


def accepts(database: Database, statement: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("table", ["jobs", "runs", "workers"])
def test_state_names(database: Database, table: str) -> None:
    place(database)
    for state in ("done", "", "RUNNING", "queued "):
        refuses(database, f"UPDATE {table} SET state = '{state}'")
    refuses(database, f"UPDATE {table} SET state = NULL")


def test_other_names_and_numbers(database: Database) -> None:
    place(database)
    refuses(database, "UPDATE jobs SET failure_class = 'bad luck'")
    refuses(database, "UPDATE runs SET failure_class = 'bad luck'")
    refuses(database, "UPDATE devices SET kind = 'tpu'")
    for priority in (-1, 101):
        refuses(database, f"UPDATE jobs SET priority = {priority}")
    refuses(database, "UPDATE jobs SET num_devices = 0")
    accepts(database, "UPDATE jobs SET failure_class = 'user', priority = 100")


def test_one_live_lease_on_a_device(database: Database) -> None:
    _job, key = place(database)
    other_job, other = place(database)
    with database.read() as connection:
        query = text("SELECT device_id FROM leases WHERE run_id = :run_id")
        device_id = connection.execute(query, {"run_id": key.run_id}).scalar_one()
    twice = LEASE.format(run_id=other.run_id, device_id=device_id)
    refuses(database, twice)
    # Not by bringing an old one back to life either.
    accepts(database, f"UPDATE leases SET released_at = 1 WHERE run_id = {key.run_id}")
    accepts(database, twice)
    refuses(database, f"UPDATE leases SET released_at = NULL WHERE run_id = {key.run_id}")
    assert other_job


def test_one_live_run_of_a_job(database: Database) -> None:
    job_id, key = place(database)
    refuses(database, RUN.format(job_id=job_id, number=2, state="'starting'"))
    refuses(database, RUN.format(job_id=job_id, number=2, state="'running'"))
    accepts(database, RUN.format(job_id=job_id, number=2, state="'requeued'"))
    refuses(database, "UPDATE runs SET state = 'running' WHERE number = 2")
    accepts(database, f"UPDATE runs SET state = 'requeued' WHERE id = {key.run_id}")
    accepts(database, "UPDATE runs SET state = 'running' WHERE number = 2")
    refuses(database, RUN.format(job_id=job_id, number=2, state="'failed'"))


def test_rows_belong_to_rows(database: Database) -> None:
    job_id, key = place(database)
    refuses(database, EVENT.format(job_id=job_id + 1))
    refuses(database, RUN.format(job_id=job_id + 1, number=1, state="'starting'"))
    refuses(database, LEASE.format(run_id=key.run_id, device_id=999))
    refuses(database, LEASE.format(run_id=key.run_id + 1, device_id=1))
    refuses(database, f"DELETE FROM jobs WHERE id = {job_id}")
    refuses(database, "DELETE FROM workers")


def test_artifacts_have_known_kinds_and_states_and_one_name(database: Database) -> None:
    _job, key = place(database)
    refuses(database, ARTIFACT.format(run_id=key.run_id, kind="'pickle'", state="'staging'"))
    refuses(database, ARTIFACT.format(run_id=key.run_id, kind="'plot'", state="'half'"))
    accepts(database, ARTIFACT.format(run_id=key.run_id, kind="'plot'", state="'staging'"))
    refuses(database, ARTIFACT.format(run_id=key.run_id, kind="'plot'", state="'complete'"))
    part = "INSERT INTO artifact_blobs (artifact_id, number, digest, size_bytes) SELECT id, 0, 'd', 1 FROM artifacts"
    refuses(database, part)
    accepts(database, "INSERT INTO blobs (digest, size_bytes, stored_at, data) VALUES ('d', 1, 0, 'x')")
    accepts(database, part)
    refuses(database, part)
    refuses(database, "DELETE FROM blobs")
    accepts(database, "DELETE FROM artifacts")
    accepts(database, "DELETE FROM blobs")


def test_one_idempotency_key_of_a_user_and_one_worker_of_a_name(database: Database) -> None:
    submit(database, idempotency_key="k")
    submit(database)
    refuses(database, "UPDATE jobs SET idempotency_key = 'k'")
    add_worker(database, "w1")
    add_worker(database, "w2")
    refuses(database, "UPDATE workers SET name = 'w1'")
    refuses(database, "UPDATE devices SET uuid = 'same'")
