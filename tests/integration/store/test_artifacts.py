"""The artifact store: whole or not at all, and verified on every read."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select, text, update

from dljobs.errors import CorruptArtifact, DljobsError, NotFound, StorageFull, Unreachable
from dljobs.service import blobs as blobs_module
from dljobs.service import cutting
from dljobs.service.artifacts import ArtifactStore, Description, get_artifact, list_artifacts
from dljobs.service.blobs import digest_of
from dljobs.service.database import Database, open_database
from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome, RunKey
from dljobs.service.settings import Settings
from dljobs.service.tables import artifacts, blobs
from tests.databases import settings_for

from .rows import end, place_again, run_it, start, states
from .small_blobs import SMALL, use_small_blobs


@pytest.fixture
def small_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blobs(monkeypatch)


def write_file(folder: Path, size: int, seed: int = 0) -> Path:
    path = folder / f"file-{size}-{seed}"
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def put(database: Database, key: RunKey, path: Path, name: str = "last", kind: str = "state_dict") -> int:
    return ArtifactStore(database).put(key, Description(kind, name), path)


def listed(database: Database, job_id: int) -> list[str]:
    with database.read() as connection:
        return [row["name"] for row in list_artifacts(connection, job_id)]


def count_rows(database: Database) -> tuple[int, int]:
    """Rows of artifacts in whatever state, and blobs."""
    with database.read() as connection:
        num_artifacts, num_blobs = (
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (artifacts, blobs)
        )
    return num_artifacts, num_blobs


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 7 * SMALL + 13])
@pytest.mark.usefixtures("small_blobs")
def test_bytes_come_back(database: Database, tmp_path: Path, size: int) -> None:
    job_id, key = start(database)
    path = write_file(tmp_path, size)
    artifact_id = put(database, key, path)
    ArtifactStore(database).fetch(artifact_id, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert count_rows(database)[1] == -(-size // SMALL)
    with database.read() as connection:
        [row] = list_artifacts(connection, job_id)
    assert row["size_bytes"] == size
    content = path.read_bytes()
    pieces = [content[start : start + SMALL] for start in range(0, size, SMALL)]
    assert row["digest"] == digest_of("".join(map(digest_of, pieces)).encode())
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == ["back", path.name]


def test_blobs_of_the_true_size(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    path = write_file(tmp_path, 2 * cutting.BLOB_BYTES + 5)
    artifact_id = put(database, key, path)
    sizes = [len(chunk) for chunk in ArtifactStore(database).chunks(artifact_id)]
    assert sizes == [cutting.BLOB_BYTES] * 2 + [5]


def test_what_is_known_of_an_artifact(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    store, path = ArtifactStore(database), write_file(tmp_path, 10)
    metrics = {"accuracy": 0.5, "loss": float("nan"), "per_class": {"1": float("inf")}}
    store.put(key, Description("state_dict", "epoch-2", step=20, epoch=2, metrics=metrics, best=True), path)
    store.put(key, Description("state_dict", "epoch-1", step=10, epoch=1), path)
    store.put(key, Description("checkpoint", "epoch-2", step=20, epoch=2), path)
    with database.read() as connection:
        rows = list_artifacts(connection, job_id)
        assert [row["name"] for row in list_artifacts(connection, job_id, kind="checkpoint")] == ["epoch-2"]
        assert list_artifacts(connection, job_id, from_run=2) == []
        assert list_artifacts(connection, job_id + 1) == []
    assert [(row["kind"], row["name"], row["run_number"]) for row in rows] == [
        ("state_dict", "epoch-1", 1),
        ("state_dict", "epoch-2", 1),
        ("checkpoint", "epoch-2", 1),
    ]
    assert (rows[1]["step"], rows[1]["epoch"], rows[1]["best"]) == (20, 2, 1)
    strict = json.loads(rows[1]["metrics_json"], parse_constant=pytest.fail)
    assert strict == {"accuracy": 0.5, "loss": None, "per_class": {"1": None}}


def test_of_two_runs_of_a_job_each_keeps_its_own(database: Database, tmp_path: Path) -> None:
    job_id, first = start(database)
    put(database, first, write_file(tmp_path, 10))
    end(database, first, Outcome(FailureClass.PREEMPTED, "drained"))
    second = place_again(database, job_id)
    run_it(database, second)
    put(database, second, write_file(tmp_path, 20))
    with database.read() as connection:
        rows = list_artifacts(connection, job_id)
        assert sorted((row["run_number"], row["size_bytes"]) for row in rows) == [(1, 10), (2, 20)]
        assert [row["run_number"] for row in list_artifacts(connection, job_id, from_run=2)] == [2]


# Writers that die


def die_in_the_second_transaction(url: str, run_id: int, token: str, path: str) -> None:
    """What the writer process below does."""
    keep, num_calls = blobs_module.keep, 0

    def die(*args: Any) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(*args)

    blobs_module.keep = die
    put(Database(url), RunKey(run_id, token), Path(path))


def test_kill_9_in_mid_upload_leaves_nothing_visible(
    database: Database, database_settings: Settings, tmp_path: Path
) -> None:
    job_id, key = start(database)
    path = write_file(tmp_path, cutting.BLOB_BYTES * 11 // 2)
    name = die_in_the_second_transaction.__name__
    code = f"import sys; from {__name__} import {name} as die; die(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])"
    arguments = (database_settings.sqlalchemy_url, str(key.run_id), key.token, str(path))
    writer = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert writer.returncode == -signal.SIGKILL
    assert count_rows(database) == (1, 1 if database.is_sqlite else 4)
    assert listed(database, job_id) == []
    with database.read() as connection:
        left = connection.scalar(select(artifacts.c.id))
        assert left is not None
        with pytest.raises(NotFound):
            get_artifact(connection, left)
    with pytest.raises(NotFound):
        ArtifactStore(database).fetch(left, tmp_path / "back")
    assert not (tmp_path / "back").exists()

    path = write_file(tmp_path, 10)
    ArtifactStore(database).fetch(put(database, key, path), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert listed(database, job_id) == ["last"]
    assert count_rows(database) == (1, 1)


@pytest.mark.usefixtures("small_blobs")
def test_a_file_that_changes_while_it_is_stored_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes would not match their digests."""
    job_id, key = start(database)
    path = write_file(tmp_path, 3500)
    keep, changes = blobs_module.keep, list[Callable[[], object]]()

    def keep_after_change(*args: Any) -> None:
        changes[-1]()
        keep(*args)

    monkeypatch.setattr(blobs_module, "keep", keep_after_change)
    for change in (
        partial(os.truncate, path, 3400),
        partial(os.truncate, path, 0),
        partial(path.write_bytes, bytes(3500)),
    ):
        write_file(tmp_path, 3500)
        changes.append(change)
        with pytest.raises(DljobsError, match="has changed while it was stored"):
            put(database, key, path)
        assert listed(database, job_id) == []
    write_file(tmp_path, 3500)
    monkeypatch.undo()
    use_small_blobs(monkeypatch)
    assert b"".join(ArtifactStore(database).chunks(put(database, key, path))) == path.read_bytes()
    assert count_rows(database) == (1, 4)


@pytest.mark.usefixtures("small_blobs")
def test_a_failed_second_upload_leaves_the_first_whole(database: Database, tmp_path: Path) -> None:
    job_id, key = start(database)
    first = write_file(tmp_path, 1500, seed=1)
    first_id = put(database, key, first)
    with pytest.raises(IsADirectoryError):
        put(database, key, tmp_path)
    assert listed(database, job_id) == ["last"]
    assert b"".join(ArtifactStore(database).chunks(first_id)) == first.read_bytes()
    second = write_file(tmp_path, 2500, seed=2)
    second_id = put(database, key, second)
    assert b"".join(ArtifactStore(database).chunks(second_id)) == second.read_bytes()
    assert listed(database, job_id) == ["last"]
    assert count_rows(database) == (1, 3)


# Readers


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        ("UPDATE blobs SET data = :junk WHERE digest = :second", "blob 1 does not match its digest"),
        ("UPDATE blobs SET data = :nothing WHERE digest = :second", "blob 1 does not match its digest"),
        ("DELETE FROM artifact_blobs WHERE number = 1", "the list of its blobs does not match its digest"),
        ("DELETE FROM artifact_blobs WHERE number = 3", "the list of its blobs does not match its digest"),
        (
            "UPDATE artifact_blobs SET number = 9 WHERE number = 0;"
            "UPDATE artifact_blobs SET number = 0 WHERE number = 1;"
            "UPDATE artifact_blobs SET number = 1 WHERE number = 9",
            "the list of its blobs does not match its digest",
        ),
        ("UPDATE artifacts SET digest = 'junk'", "the list of its blobs does not match its digest"),
        ("UPDATE artifacts SET size_bytes = size_bytes + 1", "the list of its blobs does not match its digest"),
        ("UPDATE artifact_blobs SET size_bytes = 2 - size_bytes", "the list of its blobs does not match its digest"),
    ],
)
@pytest.mark.usefixtures("small_blobs")
def test_damage_is_never_handed_out(database: Database, tmp_path: Path, harm: str, complaint: str) -> None:
    _job, key = start(database)
    path = write_file(tmp_path, 3500)
    artifact_id = put(database, key, path)
    values = {"junk": b"junk", "nothing": b"", "second": digest_of(path.read_bytes()[SMALL : 2 * SMALL])}
    with database.write() as connection:
        for statement in harm.split(";"):
            connection.execute(text(statement), {name: values[name] for name in values if f":{name}" in statement})
    target = tmp_path / "folder" / "back"
    target.parent.mkdir()
    target.write_bytes(b"what was there before")
    with pytest.raises(CorruptArtifact, match=f"artifact {artifact_id} .*is corrupt.*{complaint}"):
        ArtifactStore(database).fetch(artifact_id, target)
    assert target.read_bytes() == b"what was there before"
    assert list(target.parent.iterdir()) == [target]


def test_what_is_not_there(database: Database, tmp_path: Path) -> None:
    for artifact_id in (1, 0, -1, 2**63 - 1, 2**70):
        with pytest.raises(NotFound, match=f"there is no artifact {artifact_id}"):
            ArtifactStore(database).fetch(artifact_id, tmp_path / "back")
    assert not any(path.is_file() for path in tmp_path.iterdir())


@pytest.mark.parametrize("table", ["artifacts", "blobs"])
@pytest.mark.usefixtures("small_blobs")
def test_a_reader_says_what_is_wrong_with_the_database(database: Database, tmp_path: Path, table: str) -> None:
    """Some of its queries are the driver's own."""
    _job, key = start(database)
    artifact_id = put(database, key, write_file(tmp_path, 3500))
    with database.write() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO gone"))
    try:
        with pytest.raises(Unreachable, match="has no dljobs tables"):
            ArtifactStore(database).fetch(artifact_id, tmp_path / "back")
    finally:
        with database.write() as connection:
            connection.execute(text(f"ALTER TABLE gone RENAME TO {table}"))


@pytest.mark.usefixtures("small_blobs")
def test_an_artifact_that_is_dropped_while_it_is_read_is_gone_not_corrupt(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    store = ArtifactStore(database)
    artifact_id = put(database, key, write_file(tmp_path, 3500))
    reading = store.chunks(artifact_id)
    next(reading)
    store.drop(key, [artifact_id])
    with pytest.raises(NotFound):
        list(reading)
    assert count_rows(database) == (0, 0)


def test_drop_touches_only_the_run(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    _job, other = start(database)
    path = write_file(tmp_path, 10)
    mine, keep, others = put(database, key, path), put(database, key, path, "keep"), put(database, other, path)
    ArtifactStore(database).drop(key, [mine, others])
    ArtifactStore(database).drop(key, [])
    with database.read() as connection:
        assert set(connection.scalars(select(artifacts.c.id))) == {keep, others}


# No room


@pytest.fixture
def full_disk(tmp_path: Path, sqlite_template: Path) -> Iterator[Settings]:
    """Settings of a migrated SQLite database on a file system of 8 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not let us mount a small disk: {mounted.stderr.strip()}")
    try:
        settings = settings_for(disk)
        settings.sqlite_path.write_bytes(sqlite_template.read_bytes())
        yield settings
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk(full_disk: Settings, tmp_path: Path) -> None:
    fill_up_and_go_on(open_database(full_disk), tmp_path, lambda _database: None, full_disk.home / "ballast")


def test_a_full_database(tmp_path: Path, sqlite_template: Path) -> None:
    """The same where no disk can be mounted: SQLite gives the same error at a limit of pages."""
    settings = settings_for(tmp_path / "home")
    settings.home.mkdir()
    settings.sqlite_path.write_bytes(sqlite_template.read_bytes())
    database = open_database(settings)
    limit = 60

    def limit_pages(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={limit}")

    def lift(database: Database) -> None:
        nonlocal limit
        limit = 10**6
        database.close()

    event.listen(database.engine, "connect", limit_pages)
    fill_up_and_go_on(database, tmp_path, lift, None)


def fill_up_and_go_on(
    database: Database, tmp_path: Path, make_room: Callable[[Database], None], ballast: Path | None
) -> None:
    job_id, key = start(database)
    put(database, key, write_file(tmp_path, 1000), "early")
    if ballast is not None:
        ballast.write_bytes(b"x" * 3 * 2**20)
    with pytest.raises(StorageFull, match=r"has no room left") as caught:
        put(database, key, write_file(tmp_path, 3 * cutting.BLOB_BYTES), "large")
    assert "space" in caught.value.hint
    assert listed(database, job_id) == ["early"]
    if ballast is not None:
        ballast.unlink()
    make_room(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    if ballast is None:
        assert count_rows(database) == (1, 1)  # what could be removed was
    put(database, key, write_file(tmp_path, 2000), "late")
    assert listed(database, job_id) == ["early", "late"]
    assert end(database, key, Outcome(None, "trained")) == "succeeded"
    assert states(database, key) == ("succeeded", "succeeded")
    database.close()


@pytest.mark.usefixtures("small_blobs")
def test_a_part_is_read_from_the_blobs_that_hold_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _job, key = start(database)
    path = write_file(tmp_path, 3 * SMALL + 7)
    content = path.read_bytes()
    artifact_id = put(database, key, path)
    read_blobs: list[int] = []

    digests = [digest_of(content[start : start + SMALL]) for start in range(0, len(content), SMALL)]
    load = blobs_module.load

    def note(connection: Connection, wanted: Sequence[str]) -> dict[str, bytes]:
        read_blobs.extend(map(digests.index, wanted))
        return load(connection, wanted)

    monkeypatch.setattr(blobs_module, "load", note)
    reader = ArtifactStore(database).open(artifact_id)
    for begin, end_, numbers in (
        (0, 8, [0]),
        (8, 500, []),  # the blob is still there
        (990, 1010, [0, 1]),
        (3 * SMALL, 3 * SMALL + 7, [3]),
        (10, 10, []),
        (0, len(content), [0, 1, 2, 3]),
    ):
        read_blobs.clear()
        assert reader.read(begin, end_) == content[begin:end_]
        assert read_blobs == numbers
    assert reader.size == len(content)
    for begin, end_ in ((-1, 3), (5, 4), (0, len(content) + 1)):
        with pytest.raises(ValueError, match="bytes"):
            reader.read(begin, end_)


@pytest.mark.usefixtures("small_blobs")
def test_a_part_from_a_damaged_blob_is_refused_and_the_others_are_not(database: Database, tmp_path: Path) -> None:
    _job, key = start(database)
    path = write_file(tmp_path, 3 * SMALL)
    artifact_id = put(database, key, path)
    with database.write() as connection:
        second = blobs.c.digest == digest_of(path.read_bytes()[SMALL : 2 * SMALL])
        connection.execute(update(blobs).where(second).values(data=b"x" * SMALL))
    reader = ArtifactStore(database).open(artifact_id)
    assert reader.read(0, SMALL) == path.read_bytes()[:SMALL]
    assert reader.read(2500, 2600) == path.read_bytes()[2500:2600]
    with pytest.raises(CorruptArtifact, match="blob 1 does not match its digest"):
        reader.read(900, 1100)
    with pytest.raises(NotFound):
        ArtifactStore(database).open(artifact_id + 1)
