"""Blobs: kept once, shared, mended, and collected only when nobody holds them, whoever dies meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from dljobs.errors import CorruptArtifact
from dljobs.service import blobs as blobs_module
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.clock import now
from dljobs.service.cutting import BLOB_BYTES
from dljobs.service.database import Database
from dljobs.service.failures import FailureClass
from dljobs.service.garbage import Garbage, Stock, collect_garbage, find_garbage, take_stock
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.tables import artifact_blobs, artifacts, blobs
from dljobs.service.tensors import TensorFile

from .racing import race
from .rows import add_worker, end, start
from .small_blobs import SMALL, use_small_blobs

NUM_BLOBS = 5


def put(database: Database, key: RunKey, path: Path, name: str = "last") -> int:
    return ArtifactStore(database).put(key, Description("state_dict", name), path)


def read(database: Database, artifact_id: int) -> bytes:
    return b"".join(ArtifactStore(database).chunks(artifact_id))


def write_file(folder: Path, num_bytes: int = NUM_BLOBS * SMALL - 300, seed: int = 0) -> Path:
    path = folder / f"file-{seed}"
    path.write_bytes(random.Random(seed).randbytes(num_bytes))
    return path


def count(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (artifacts, artifact_blobs, blobs)
        }


def loose_blobs(database: Database) -> int:
    with database.read() as connection:
        return len(find_garbage(connection).blobs)


# Sharing


def write_weights(path: Path, epoch: int) -> Path:
    """A frozen backbone of 12 MiB with many small buffers in it, and a head that is new in each epoch."""
    torch = pytest.importorskip("torch")
    from dljobs.workers.weights import write_state_dict

    frozen, learned = torch.Generator().manual_seed(0), torch.Generator().manual_seed(epoch)
    tensors = {}
    for layer in range(6):
        tensors[f"layer{layer}.weight"] = torch.randn(512, 1024, generator=frozen)
        for name in ("bias", "running_mean", "running_var"):
            tensors[f"layer{layer}.{name}"] = torch.randn(512, generator=frozen)
        tensors[f"layer{layer}.num_batches_tracked"] = torch.tensor(7)
    tensors["head.weight"] = torch.randn(10, 512, generator=learned)
    write_state_dict(tensors, {}, path)
    return path


def test_ten_checkpoints_with_a_frozen_backbone_cost_little_more_than_one(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    paths = [write_weights(tmp_path / f"epoch-{epoch}", epoch) for epoch in range(10)]
    ids = [put(database, key, path, path.name) for path in paths]
    with database.read() as connection:
        found = take_stock(connection)
    assert found.num_artifacts == 10
    assert found.artifact_bytes == sum(path.stat().st_size for path in paths)
    # The head lies in one group with its small neighbours, 36 KiB of them.
    assert found.blob_bytes < 1.1 * paths[0].stat().st_size
    assert found.num_blobs < 30
    for artifact_id, path in zip(ids, paths, strict=True):
        assert read(database, artifact_id) == path.read_bytes()
    ArtifactStore(database).drop(key, ids[1:])
    assert read(database, ids[0]) == paths[0].read_bytes()
    with database.read() as connection:
        assert take_stock(connection).blob_bytes == paths[0].stat().st_size


def test_a_tensor_is_read_without_the_others(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _job, key = start(database)
    reader = ArtifactStore(database).open(put(database, key, write_weights(tmp_path / "weights", 0)))
    loaded: list[int] = []
    load = blobs_module.load

    def note(*args: Any) -> dict[str, bytes]:
        found = load(*args)
        loaded.extend(map(len, found.values()))
        return found

    monkeypatch.setattr(blobs_module, "load", note)
    file = TensorFile(reader)
    header_bytes = sum(loaded)
    assert header_bytes < 8192
    loaded.clear()
    assert file.read(file.find("layer3.weight")).shape == (512, 1024)
    assert loaded == [512 * 1024 * 4]


def test_weights_come_straight_from_the_store(database: Database, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from dljobs.workers.stored_weights import load_state_dict
    from dljobs.workers.weights import read_tensors

    _job, key = start(database)
    path = write_weights(tmp_path / "weights", 0)
    found = load_state_dict(ArtifactStore(database).open(put(database, key, path)))
    expected, _metadata = read_tensors(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_same_bytes_twice_in_one_file(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    path = tmp_path / "zeros"
    path.write_bytes(bytes(3 * BLOB_BYTES))
    artifact_id = put(database, key, path)
    assert count(database) == {"artifacts": 1, "artifact_blobs": 3, "blobs": 1}
    assert read(database, artifact_id) == path.read_bytes()


def test_what_another_holds_outlives_a_drop(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blobs(monkeypatch)
    (_job, key), (_job, other) = start(database), start(database)
    path = write_file(tmp_path)
    mine, others = put(database, key, path), put(database, other, path)
    assert count(database)["blobs"] == NUM_BLOBS
    ArtifactStore(database).drop(key, [mine])
    assert read(database, others) == path.read_bytes()
    put(database, other, write_file(tmp_path, seed=1))  # in its place
    assert count(database) == {"artifacts": 1, "artifact_blobs": NUM_BLOBS, "blobs": NUM_BLOBS}


def test_a_damaged_blob_is_mended_by_the_next_artifact_that_has_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blobs(monkeypatch)
    _job, key = start(database)
    path = write_file(tmp_path)
    first = put(database, key, path, "first")
    with database.write() as connection:
        connection.execute(update(blobs).values(data=b"junk"))
    with pytest.raises(CorruptArtifact, match="blob 0 does not match"):
        read(database, first)
    put(database, key, path, "second")  # only the blob that a reader has met is known to be damaged
    with pytest.raises(CorruptArtifact, match="blob 1 does not match"):
        read(database, first)
    with database.write() as connection:
        connection.execute(update(blobs).values(damaged_at=now()))
    third = put(database, key, path, "third")
    assert read(database, first) == read(database, third) == path.read_bytes()
    assert count(database)["blobs"] == NUM_BLOBS


def test_a_blob_that_is_collected_after_it_was_found_is_stored_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blobs(monkeypatch)
    _job, key = start(database)
    path = write_file(tmp_path)
    first = put(database, key, path, "first")
    known = blobs_module.known

    def collect_after(*args: Any) -> set[str]:
        found = known(*args)
        ArtifactStore(database).drop(key, [first])
        assert len(found) == NUM_BLOBS
        assert count(database)["blobs"] == 0
        return found

    monkeypatch.setattr(blobs_module, "known", collect_after)
    assert read(database, put(database, key, path, "second")) == path.read_bytes()
    assert count(database) == {"artifacts": 1, "artifact_blobs": NUM_BLOBS, "blobs": NUM_BLOBS}


# Bounds


def test_a_transaction_writes_a_few_blobs_at_most(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    written = [0]

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO blobs"):
            for row in parameters if isinstance(parameters, list) else [parameters]:
                values = row.values() if isinstance(row, dict) else row
                # psycopg's wrapper of bytes has them as `obj`.
                contents = [
                    value if isinstance(value, memoryview) else getattr(value, "obj", value) for value in values
                ]
                written[-1] += max(len(content) for content in contents if isinstance(content, memoryview))

    event.listen(database.engine, "before_cursor_execute", note)
    event.listen(database.engine, "commit", lambda _connection: written.append(0))
    path = write_weights(tmp_path / "weights", 0)
    put(database, key, path)
    assert sum(written) == path.stat().st_size
    assert max(written) <= BLOB_BYTES * (1 if database.is_sqlite else 4)


def test_memory_is_bounded(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(12):
            file.write(os.urandom(BLOB_BYTES))
    tracemalloc.start()
    try:
        artifact_id = put(database, key, path)
        assert sum(len(chunk) for chunk in ArtifactStore(database).chunks(artifact_id)) == 12 * BLOB_BYTES
        # The piece that is read, the one that is in use, the one that waits, and the driver's copies.
        assert tracemalloc.get_traced_memory()[1] < 4.5 * BLOB_BYTES
    finally:
        tracemalloc.stop()


def test_a_reader_that_stops_early_leaves_no_thread(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    artifact_id = put(database, key, write_weights(tmp_path / "weights", 0))
    before = threading.active_count()
    chunks = ArtifactStore(database).chunks(artifact_id)
    next(chunks)
    assert threading.active_count() == before + 1
    chunks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# Garbage


def test_what_a_dead_writer_left_is_garbage_once_its_run_is_over(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blobs(monkeypatch)
    _job, key = start(database)
    whole = put(database, key, write_file(tmp_path), "whole")
    leave_half(database, key, tmp_path)
    everything = count(database)
    assert everything == {"artifacts": 2, "artifact_blobs": NUM_BLOBS + 2, "blobs": NUM_BLOBS + 2}
    assert collect_garbage(database).uploads == ()  # its run may still be writing it
    end(database, key, Outcome(None, "trained"))
    with database.read() as connection:
        found = find_garbage(connection)
        assert take_stock(connection) == Stock(1, NUM_BLOBS * SMALL - 300, NUM_BLOBS + 2, (NUM_BLOBS + 2) * SMALL - 300)
    assert count(database) == everything
    assert len(found.uploads) == 1
    assert sorted(found.blobs.values()) == [SMALL, SMALL]
    assert collect_garbage(database) == found
    assert count(database) == {"artifacts": 1, "artifact_blobs": NUM_BLOBS, "blobs": NUM_BLOBS}
    assert read(database, whole) == (tmp_path / "file-0").read_bytes()


def leave_half(database: Database, key: RunKey, folder: Path) -> None:
    """What a writer leaves that dies after two blobs."""

    class Dead(Exception):
        pass

    def die_after_two(*args: Any) -> Iterator[Any]:
        for number, part in enumerate(transactions(*args)):
            if number == 2:
                raise Dead
            yield part

    transactions = ArtifactStore._transactions
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Dead):
        patch.setattr(ArtifactStore, "_transactions", die_after_two)
        put(database, key, write_file(folder, seed=9), "half")


def test_blobs_that_nobody_collected_when_they_were_dropped(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blobs(monkeypatch)
    _job, key = start(database)
    artifact_id = put(database, key, write_file(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(blobs_module, "collect", lambda *_: [])  # it died before that
        ArtifactStore(database).drop(key, [artifact_id])
    assert count(database) == {"artifacts": 0, "artifact_blobs": 0, "blobs": NUM_BLOBS}
    garbage = collect_garbage(database)
    assert (len(garbage.blobs), garbage.size_bytes) == (NUM_BLOBS, NUM_BLOBS * SMALL - 300)
    assert count(database)["blobs"] == 0
    assert collect_garbage(database).blobs == {}


def test_an_empty_store_has_no_garbage(database: Database) -> None:
    assert collect_garbage(database) == Garbage((), (), {})
    with database.read() as connection:
        assert take_stock(connection) == Stock(0, 0, 0, 0)


# Many at once, and deaths


def put_many(url: str, run_id: int, token: str, folder: str, number: int) -> int:
    """A writer that stores and drops files that all writers have."""
    use_small_blobs()
    database, key = Database(url), RunKey(run_id, token)
    for again in range(6):
        name = f"writer-{number}-{again}"
        path = write_file(Path(folder), seed=again % 2) if number < 0 else Path(folder) / f"file-{again % 2}"
        artifact_id = put(database, key, path, name)
        assert read(database, artifact_id) == path.read_bytes()
        if again < 5:
            ArtifactStore(database).drop(key, [artifact_id])
    return artifact_id


def collect_all_the_time(url: str, *_: Any) -> int:
    """A collector without any patience."""
    database = Database(url)
    num_collected = 0
    for _again in range(25):
        num_collected += len(collect_garbage(database).blobs)
    return num_collected


def write_or_collect(role: str, *arguments: Any) -> int:
    return put_many(*arguments) if role == "write" else collect_all_the_time(*arguments)


def test_writers_of_the_same_blobs_beside_collectors(
    database: Database, database_settings: Settings, tmp_path: Path
) -> None:
    paths = [write_file(tmp_path, seed=seed) for seed in (0, 1)]
    url = database_settings.sqlalchemy_url
    keys = [start(database)[1] for _ in range(4)]
    writers = [("write", url, key.run_id, key.token, str(tmp_path), n) for n, key in enumerate(keys)]
    results = race(write_or_collect, *writers, ("collect", url), ("collect", url))
    for artifact_id in results[:4]:
        assert read(database, artifact_id) == paths[1].read_bytes()
    assert loose_blobs(database) == len(collect_garbage(database).blobs)
    assert count(database) == {"artifacts": 4, "artifact_blobs": 4 * NUM_BLOBS, "blobs": NUM_BLOBS}


def die_at(url: str, run_id: int, token: str, folder: str, statement: int) -> int:
    """Store a file and drop it in a child that kills itself before the given statement; returns how the child ended."""
    child = os.fork()
    if child == 0:
        use_small_blobs()
        database, key = Database(url), RunKey(run_id, token)
        num_statements = 0

        def count_down(*_: Any) -> None:
            nonlocal num_statements
            num_statements += 1
            if num_statements == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(database.engine, "before_cursor_execute", count_down)
        event.listen(database.engine, "commit", count_down)
        dropped = put(database, key, Path(folder) / "file-1", "dropped")
        put(database, key, Path(folder) / "file-0", "kept")
        ArtifactStore(database).drop(key, [dropped])
        os._exit(0)
    return os.waitpid(child, 0)[1]


def die_or_collect(role: str, *arguments: Any) -> int:
    return die_at(*arguments) if role == "die" else collect_all_the_time(*arguments)


def test_kill_9_at_any_statement_beside_collectors(
    database: Database, database_settings: Settings, tmp_path: Path
) -> None:
    files = {"kept": write_file(tmp_path, seed=0).read_bytes(), "dropped": write_file(tmp_path, seed=1).read_bytes()}
    url = database_settings.sqlalchemy_url
    statements = [*range(1, 40, 2), 100]
    add_worker(database, num_devices=len(statements))
    keys = [start(database, name=f"job {statement}")[1] for statement in statements]
    dying = [("die", url, k.run_id, k.token, str(tmp_path), n) for k, n in zip(keys, statements, strict=True)]
    statuses = race(die_or_collect, *dying, ("collect", url))[:-1]
    assert statuses[0] == signal.SIGKILL
    assert statuses[-1] == 0, "there are fewer statements than that: everybody died somewhere"
    assert statuses.count(signal.SIGKILL) > 8

    with database.read() as connection:
        found = connection.execute(select(artifacts.c.id, artifacts.c.name, artifacts.c.state)).all()
    assert {row.state for row in found} == {"staging", "complete"}
    for row in found:
        if row.state == "complete":
            assert read(database, row.id) == files[row.name]
    for key in keys:
        end(database, key, Outcome(FailureClass.NODE_LOST, "its worker was killed"))
    collect_garbage(database)
    complete = [row for row in found if row.state == "complete"]
    assert count(database)["artifacts"] == len(complete)
    assert count(database)["blobs"] == NUM_BLOBS * len({row.name for row in complete})
    assert loose_blobs(database) == 0
