"""Data from an address: a server on loopback, real processes, archives that are not as they should be."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dljobs.errors import DataError, StorageFull, UsageError
from dljobs.models.announcement import listening
from dljobs.models.data import Data, load_data
from dljobs.models.datasets import remote
from dljobs.models.location import Location
from tests.file_server import DEADLINE_S, Server, images, tar
from tests.waiting import wait_until

TABLE = b"rooms,price\n" + b"".join(b"%d,%d\n" % (n, 10 * n) for n in range(20))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "RETRY_AFTER_S", (0.0, 0.0))
    server = Server()
    yield server
    server.close()


def zipped(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            packed.writestr(info, content)
    return buffer.getvalue()


def load(root: Path, path: str, name: str = "imagefolder") -> Data:
    return load_data(name, {"path": path} | ({"task": "regression"} if name == "csv" else {}), root)


def left_in(root: Path) -> list[str]:
    """What lies in the folder of what was fetched, beside locks."""
    folder = root / remote.FOLDER
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("pack", [tar, lambda files: tar(files, "w"), lambda files: tar(files, "w:xz"), zipped])
@pytest.mark.parametrize("top", ["", "pictures/"])
def test_a_folder_comes_in_an_archive(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], pack: Callable[..., bytes], top: str
) -> None:
    server.files["x.bin"] = pack({top + name: content for name, content in images().items()})
    digest = hashlib.sha256(server.files["x.bin"]).hexdigest()
    told: list[str] = []
    with listening(told.append):
        data = load(tmp_path, server.url("x.bin"))
    assert (len(data.train), len(data.test), data.class_names) == (8, 8, ("blue", "red"))
    assert data.origin is not None
    assert (data.origin.place, data.origin.sha256) == (server.url("x.bin"), digest)
    assert [line.split(" (")[0].split(":")[0] for line in told] == [
        "downloading x.bin",
        "downloaded x.bin",
        "unpacking x.bin",
        f"fetched {server.url('x.bin').split(':')[0]}",
        "reading 8 images",
        "reading 8 images",
    ]
    assert told[3].endswith(f"sha256 {digest}")
    assert told == capsys.readouterr().out.splitlines()
    (place,) = left_in(tmp_path)
    assert sorted(path.name for path in (tmp_path / remote.FOLDER / place).iterdir()) == ["content", "record.json"]
    server.files.clear()
    assert len(load(tmp_path, server.url("x.bin")).train) == 8
    assert server.asked["x.bin"] == 1


def test_a_table_comes_as_it_is_and_keeps_no_signature(server: Server, tmp_path: Path) -> None:
    server.files["table.csv"] = TABLE
    data = load(tmp_path, server.url("table.csv?signature=secret"), "csv")
    assert data.origin is not None
    assert (data.origin.place, data.origin.sha256) == (server.url("table.csv"), hashlib.sha256(TABLE).hexdigest())
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("record.json"))
    (tmp_path / "here.csv").write_bytes(TABLE)
    assert len(load(tmp_path, f"file://{tmp_path}/here.csv", "csv").train) == len(data.train) == 16


def test_a_connection_that_is_cut_is_tried_again_and_never_taken_for_the_end(server: Server, tmp_path: Path) -> None:
    server.files["table.csv"] = TABLE
    server.cut["table.csv"] = 2
    assert len(load(tmp_path, server.url("table.csv"), "csv").train) == 16
    assert server.asked["table.csv"] == 3
    server.cut["table.csv"] = 9
    with pytest.raises(DataError, match=r"http://\S+/table\.csv cannot be fetched: IncompleteRead"):
        load(tmp_path / "other", server.url("table.csv"), "csv")
    assert server.asked["table.csv"] == 6
    assert left_in(tmp_path / "other") == []


def test_what_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/none\.csv cannot be fetched: HTTP Error 404: Not Found"):
        load(tmp_path, server.url("none.csv"), "csv")
    assert server.asked["none.csv"] == 1
    with pytest.raises(DataError, match=r"cannot be fetched: .*nowhere"):
        load(tmp_path, "file:///nowhere/x.csv", "csv")
    with pytest.raises(DataError, match=r"cannot be fetched: .*Protocol not known: gopher"):
        load(tmp_path, "gopher://host/x.csv", "csv")
    assert left_in(tmp_path) == []


def test_the_digest_that_a_user_gives(server: Server, tmp_path: Path) -> None:
    server.files["table.csv"] = TABLE
    good, bad = hashlib.sha256(TABLE).hexdigest(), "0" * 64
    with pytest.raises(DataError, match=f"has the sha256 {good}, and not {bad} as the job says"):
        load(tmp_path, f"{server.url('table.csv')}#sha256={bad}", "csv")
    assert left_in(tmp_path) == []
    load(tmp_path, f"{server.url('table.csv')}#sha256={good.upper()}", "csv")
    # A digest makes it another location: the newer file is fetched beside the older one.
    server.files["table.csv"] = newer = TABLE + b"99,990\n"
    both = load(tmp_path, f"{server.url('table.csv')}#sha256={hashlib.sha256(newer).hexdigest()}", "csv")
    assert len(both.train) + len(both.test) == 21
    assert len(left_in(tmp_path)) == 2


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarInfo], None]:
    def spoil(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, target

    return spoil


def device(member: tarfile.TarInfo) -> None:
    member.type, member.devmajor = tarfile.CHRTYPE, 1


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (tar({**images(), "../../out": b"x"}), "holds the path '../../out', which leads out of it"),
        (tar({**images(), "/tmp/out": b"x"}), "holds the path '/tmp/out', which leads out of it"),
        (zipped({**images(), "train/../../out": b"x"}), "holds the path 'train/../../out', which leads out of it"),
        (tar(images(), spoil=link("/etc/passwd")), "'train/red/odd.png', which is neither a file nor a folder"),
        (tar(images(), spoil=link("train/red/0.png", tarfile.LNKTYPE)), "neither a file nor a folder"),
        (tar(images(), spoil=device), "neither a file nor a folder"),
        (zipped({"link": b"/etc/passwd"}, 0o120777), "'link', which is neither a file nor a folder"),
        (tar(images())[:-200], "the archive x.tar.gz is damaged"),
        (zipped(images()).replace(b"IDAT", b"IDAX"), "the archive x.tar.gz is damaged: Bad CRC-32"),
        (b"<html>not found</html>", "x.tar.gz is no archive"),
        (tar({}), "the archive is empty"),
    ],
    ids=("up", "root", "zip-up", "symlink", "hardlink", "device", "zip-link", "cut", "zip-flipped", "page", "empty"),
)
def test_an_archive_that_is_not_to_be_trusted(server: Server, tmp_path: Path, archive: bytes, words: str) -> None:
    server.files["x.tar.gz"] = archive
    root = tmp_path / "a" / "b"
    with pytest.raises(DataError) as caught:
        load(root, server.url("x.tar.gz"))
    assert words in caught.value.message
    assert left_in(root) == []
    assert [path.name for path in tmp_path.rglob("out")] == []


def test_no_room_is_said_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["table.csv"] = TABLE
    usage = remote.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _path: usage._replace(free=10))
    with pytest.raises(StorageFull, match=r"table\.csv has 131 bytes, and the data folder has room for 10"):
        load(tmp_path, server.url("table.csv"), "csv")
    assert left_in(tmp_path) == []


LOADER = """
import json, pathlib, sys
from dljobs.models.data import load_data
path, root = json.loads(sys.argv[1])
data = load_data("csv", {"path": path, "task": "regression"}, pathlib.Path(root))
print(len(data.train), flush=True)
"""


def start(path: str, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", LOADER, json.dumps([path, str(root)])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_fetches_and_a_killed_one_leaves_nothing_in_the_way(
    server: Server, tmp_path: Path
) -> None:
    server.files["table.csv"] = TABLE
    server.gate.clear()
    processes = [start(server.url("table.csv"), tmp_path)]
    try:
        wait_until(lambda: server.asked["table.csv"] == 1, DEADLINE_S, "fetching")
        processes[0].kill()
        processes[0].communicate(timeout=DEADLINE_S)
        assert [name for name in left_in(tmp_path) if name.endswith(".part")], "killed in the middle"
        processes += [start(server.url("table.csv"), tmp_path) for _ in range(2)]
        wait_until(lambda: server.asked["table.csv"] == 2, DEADLINE_S, "fetching again")
        server.gate.set()
        assert [process.communicate(timeout=DEADLINE_S)[0].splitlines()[-1] for process in processes[1:]] == ["16"] * 2
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
    assert server.asked["table.csv"] == 2
    assert [name for name in left_in(tmp_path) if name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://host/x.csv#md5=1", "'md5=1' behind # is no digest"),
        ("https://host/x.csv#sha256=12", "is no digest"),
        ("https://host/", "is no address of a file"),
        ("https:///x.csv", "is no address of a file"),
        ("https://host/a/..", "is no address of a file"),
        ("https://me:secret@host/x.csv", r"https://host/x\.csv was given with a name or password"),
    ],
)
def test_an_address_that_cannot_be_right(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Location.parse(text)
    assert "secret" not in caught.value.message


def test_a_path_is_no_address() -> None:
    assert [Location.parse(text) for text in ("x.csv", "/a/b.csv", "C:/x.csv", "./a://b")] == [None] * 4
    assert Location.parse("s3://bucket/a/x.tar.gz") == Location("s3://bucket/a/x.tar.gz")
