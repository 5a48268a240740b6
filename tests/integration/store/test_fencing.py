"""Fencing: a writer whose token is stale changes nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from dljobs.errors import StaleToken
from dljobs.service import ends, leases, logs, metrics, runs, sweep
from dljobs.service.artifacts import ArtifactStore, Description, list_artifacts
from dljobs.service.cutting import BLOB_BYTES
from dljobs.service.database import Database
from dljobs.service.failures import FailureClass
from dljobs.service.metrics import Point
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.tables import blobs, metadata

from .rows import LEASE_S, end, let_lease_run_out, place, place_again, run_row, start


def everything(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }


def write_progress(database: Database, key: RunKey, _path: Path) -> None:
    with database.write() as connection:
        runs.fenced_update(connection, key, step=7, spool_json='{"rank-0.jsonl": 12}')


def write_logs(database: Database, key: RunKey, _path: Path) -> None:
    with database.write() as connection:
        runs.fenced_update(connection, key)
        logs.add_lines(connection, key.run_id, [(0, "from the grave")])


def write_metrics(database: Database, key: RunKey, _path: Path) -> None:
    with database.write() as connection:
        runs.fenced_update(connection, key)
        metrics.add_points(connection, key.run_id, [Point(1, 1, "train", "loss", 0.1, 0.0)])


def mark_running(database: Database, key: RunKey, _path: Path) -> None:
    with database.write() as connection:
        runs.mark_running(connection, key, actor="w1")


def put_artifact(database: Database, key: RunKey, path: Path) -> None:
    ArtifactStore(database).put(key, Description("state_dict", "late"), path)


def drop_artifact(database: Database, key: RunKey, _path: Path) -> None:
    ArtifactStore(database).drop(key, [1])


def end_run(database: Database, key: RunKey, _path: Path) -> None:
    end(database, key, Outcome(None, "trained"))


WRITES: list[Callable[[Database, RunKey, Path], None]] = [
    write_progress,
    write_logs,
    write_metrics,
    mark_running,
    put_artifact,
    drop_artifact,
    end_run,
]


def test_no_write_gets_through_with_a_stale_token(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 1000)
    job_id, first = start(database)
    put_artifact(database, first, path)
    write_logs(database, first, path)
    let_lease_run_out(database, first)
    assert sweep.expire_leases(database, actor="w2") == 1
    second = place_again(database, job_id)
    assert second.run_id != first.run_id
    stale = [
        first,  # the run it lost
        RunKey(second.run_id, first.token),  # the new run of its job, which it never had
        RunKey(first.run_id, second.token),
        RunKey(second.run_id, ""),
        RunKey(999, second.token),
    ]
    before, worker_id = everything(database), run_row(database, second.run_id)["worker_id"]
    for key in stale:
        for write in WRITES:
            with pytest.raises(StaleToken):
                write(database, key, path)
            assert everything(database) == before, write.__name__
        with database.write() as connection:
            assert not leases.renew(connection, worker_id, {"stale", first.token}, LEASE_S)
    assert everything(database) == before


def test_what_was_written_before_stays(database: Database, tmp_path: Path) -> None:
    """A fenced block that fails later undoes itself as a whole."""
    _job, key = start(database)
    before = everything(database)
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        runs.fenced_update(connection, key, step=7)
        logs.add_lines(connection, key.run_id, [(0, "line")])
        _ = 1 / 0
    assert everything(database) == before


def test_a_token_that_is_lost_in_mid_upload_shows_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its first blobs are stored under a good token, the run ends."""
    job_id, key = start(database)
    (tmp_path / "file").write_bytes(os.urandom(BLOB_BYTES * 11 // 2))
    transactions = ArtifactStore._transactions

    def end_after_one(*args: Any) -> Iterator[range]:
        first, *others = transactions(*args)
        yield first
        assert num_blobs(database) >= 1
        assert end(database, key, Outcome(FailureClass.PREEMPTED, "drained")) == "queued"
        yield from others

    monkeypatch.setattr(ArtifactStore, "_transactions", end_after_one)
    with pytest.raises(StaleToken):
        ArtifactStore(database).put(key, Description("state_dict", "late"), tmp_path / "file")
    with database.read() as connection:
        assert list_artifacts(connection, job_id) == []


def test_an_ended_run_cannot_end_again(database: Database) -> None:
    _job, key = start(database)
    end(database, key, Outcome(None, "trained"))
    before = everything(database)
    for outcome in (Outcome(None, "trained"), Outcome(FailureClass.NODE_LOST, "lost")):
        for token in (key.token, None):
            with pytest.raises(StaleToken), database.write() as connection:
                ends.end_run(connection, key.run_id, outcome, actor="w1", token=token)
    assert everything(database) == before


def test_tokens_cannot_be_guessed(database: Database) -> None:
    tokens = {place(database)[1].token for _ in range(4)}
    assert len(tokens) == 4
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


def num_blobs(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(blobs)).scalar_one()
