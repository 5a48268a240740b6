"""Datasets from the internet, a server on loopback in its place: real transfers, real processes, a really full disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle  # noqa: TID251 (the published files of CIFAR-10 are pickles: the test makes small ones)
import socket
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from dljobs.errors import DataError
from dljobs.models.data import Data, load_data
from dljobs.models.datasets import download
from tests.waiting import wait_until

DEADLINE_S = 60


class Mirror:
    """An HTTP server on loopback. `gate` holds back all answers until it is set; `cut` sends only half of a file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.served: Counter[str] = Counter()
        self.cut: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                if not mirror.gate.wait(DEADLINE_S) or name not in mirror.files:
                    self.send_error(404)
                    return
                mirror.served[name] += 1
                content = mirror.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in mirror.cut else content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join(DEADLINE_S)
        self.server.server_close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    yield mirror
    mirror.close()


@pytest.fixture
def closed_url() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"


def idx(values: np.ndarray[Any, Any]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.astype(np.uint8).tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def mnist_files(num_train: int = 20, num_test: int = 10) -> dict[str, bytes]:
    random = np.random.default_rng(0)
    files = {}
    for part, size in (("train", num_train), ("t10k", num_test)):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(random.integers(0, 256, (size, 28, 28)))
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(size) % 10)
    return {name: gzip.compress(content) for name, content in files.items()}


def cifar_files() -> tuple[bytes, dict[str, bytes]]:
    """The archive, and what is in it: ten images in each of six files."""
    random = np.random.default_rng(0)
    inner = {"batches.meta": pickle.dumps({"label_names": [str(number) for number in range(10)]})}
    for name in [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]:
        pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        inner[name] = pickle.dumps({"data": pixels, "labels": list(range(10))})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in inner.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue(), inner


def publish_mnist(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, published: type[MNIST] = MNIST, urls: list[str] | None = None
) -> dict[str, bytes]:
    files = mnist_files()
    mirror.files.update(files)
    monkeypatch.setattr(published, "mirrors", urls or [mirror.url])
    monkeypatch.setattr(published, "resources", [(name, md5(content)) for name, content in files.items()])
    return files


def publish_cifar(url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, bytes]]:
    archive, inner = cifar_files()
    monkeypatch.setattr(CIFAR10, "url", url + CIFAR10.filename)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5(inner[name])] for name, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, listed)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(inner["batches.meta"])})
    return archive, inner


def left_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def check_mnist(data: Data) -> None:
    assert (len(data.train), len(data.test), data.sample_shape) == (20, 10, (1, 32, 32))
    x, y = data.train.batch(torch.arange(20))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    torch.testing.assert_close(x[:, 0, 2:-2, 2:-2], torch.tensor(pixels / 127.5 - 1, dtype=torch.float32))
    assert x[:, 0, 0].eq(-1).all()
    assert y.tolist() == [number % 10 for number in range(20)]


@pytest.mark.parametrize(("name", "published"), [("mnist", MNIST), ("fashion-mnist", FashionMNIST)])
def test_mnist_is_downloaded_once_with_plain_progress_lines(
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    published: type[MNIST],
) -> None:
    files = publish_mnist(mirror, monkeypatch, published)
    check_mnist(load_data(name, {}, tmp_path))
    printed = capsys.readouterr().out
    for file in files:
        assert f"downloading {file} (0.0 MB)\ndownloaded {file}: 0.0 MB in " in printed
    assert "\r" not in printed
    data = load_data(name, {}, tmp_path)
    check_mnist(data)
    assert mirror.served == dict.fromkeys(files, 1)
    assert data.names[0] == ("t-shirt" if name == "fashion-mnist" else "0")
    # torchvision finds its own files where it looks for them.
    assert len(published(str(tmp_path), download=True)) == 20
    assert mirror.served == dict.fromkeys(files, 1)


def test_the_next_mirror_is_asked_where_one_fails_or_gives_something_else(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_url: str
) -> None:
    other = Mirror()
    try:
        files = publish_mnist(mirror, monkeypatch, urls=[closed_url, other.url, mirror.url])
        first, second, *_ = files
        other.files[first] = b"another file"
        other.files[second], other.cut = files[second], {second}
        check_mnist(load_data("mnist", {}, tmp_path))
        assert mirror.served == dict.fromkeys(files, 1)
    finally:
        other.close()


def test_offline_it_says_which_files_belong_where_and_then_takes_them(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_url: str
) -> None:
    files = publish_mnist(mirror, monkeypatch, urls=[closed_url])
    folder = tmp_path / "MNIST" / "raw"
    with pytest.raises(DataError) as caught:
        load_data("mnist", {}, tmp_path)
    assert caught.value.message.startswith(
        f"mnist needs train-images-idx3-ubyte.gz, which is not in {folder} and cannot be downloaded ({closed_url}t"
    )
    assert "Connection refused" in caught.value.message
    assert caught.value.hint == (
        f"put {', '.join(files)} (from {closed_url}) into {folder} to use mnist without the internet"
    )
    for name in list(files)[:2]:
        (folder / name).write_bytes(files[name])
    with pytest.raises(DataError) as caught:
        load_data("mnist", {}, tmp_path)
    assert caught.value.hint.startswith("put t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz (from")
    # Unpacked ones count as well: torchvision keeps both.
    for name in list(files)[2:]:
        (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(files[name]))
    check_mnist(load_data("mnist", {}, tmp_path))


def test_a_file_cut_short_never_counts_as_complete(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = publish_mnist(mirror, monkeypatch)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    first = next(iter(files))
    (folder / first).write_bytes(files[first][:-10])
    (folder / first.removesuffix(".gz")).write_bytes(gzip.decompress(files[first])[:-10])
    mirror.cut = set(files)
    with pytest.raises(DataError, match="are not the published file"):
        load_data("mnist", {}, tmp_path)
    assert not [name for name in left_in(tmp_path) if name.endswith(".part")]
    mirror.cut = set()
    check_mnist(load_data("mnist", {}, tmp_path))


def check_cifar(data: Data, inner: dict[str, bytes]) -> None:
    assert (len(data.train), len(data.test), data.sample_shape, data.num_classes) == (50, 10, (3, 32, 32), 10)
    assert data.names[:3] == ("plane", "car", "bird")
    x, y = data.test.batch(torch.arange(10))
    pixels = pickle.loads(inner["test_batch"])["data"].reshape(10, 3, 32, 32)
    torch.testing.assert_close(x, torch.tensor(pixels / 127.5 - 1, dtype=torch.float32))
    assert y.tolist() == list(range(10))


def test_cifar10_is_downloaded_once(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, inner = publish_cifar(mirror.url, monkeypatch)
    mirror.files[CIFAR10.filename] = archive
    for _ in range(2):
        check_cifar(load_data("cifar10", {}, tmp_path), inner)
    assert mirror.served == {CIFAR10.filename: 1}
    assert left_in(tmp_path) == [".cifar10-1.safetensors.lock", "cifar-10-python.tar.gz", "cifar10-1.safetensors"]


def test_cifar10_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_url: str) -> None:
    archive, inner = publish_cifar(closed_url, monkeypatch)
    with pytest.raises(DataError, match=r"cifar10 needs cifar-10-python\.tar\.gz") as caught:
        load_data("cifar10", {}, tmp_path)
    assert (
        f"put cifar-10-python.tar.gz (from {CIFAR10.url}) into {tmp_path}, or its files data_batch_1"
        in caught.value.hint
    )
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in inner.items():
        (folder / name).write_bytes(content)
    # One byte changed: not the published file, so it must not even be opened.
    (folder / "test_batch").write_bytes(inner["test_batch"][:-1] + b"!")
    with pytest.raises(DataError, match="cannot be downloaded"):
        load_data("cifar10", {}, tmp_path)
    (folder / "test_batch").write_bytes(inner["test_batch"])
    check_cifar(load_data("cifar10", {}, tmp_path), inner)
    other = tmp_path / "other"
    other.mkdir()
    (other / CIFAR10.filename).write_bytes(archive)
    check_cifar(load_data("cifar10", {}, other), inner)


LOADER = """
import json, pathlib, sys
import torch
from dljobs.models.data import load_data
name, root, published = json.loads(sys.argv[1])
if published:
    from torchvision.datasets import MNIST
    MNIST.mirrors, MNIST.resources = published
print("ready", flush=True)
sys.stdin.readline()
data = load_data(name, {}, pathlib.Path(root))
x, y = data.train.batch(torch.arange(len(data.train)))
print(json.dumps([len(x), x.double().sum().item(), y.sum().item(), "sklearn" in sys.modules]), flush=True)
"""


class Loader:
    """A process that imports everything, says "ready", and loads when told to."""

    def __init__(self, name: str, root: Path, published: object = None) -> None:
        argument = json.dumps([name, str(root), published])
        command = [sys.executable, "-P", "-c", LOADER, argument]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        printed, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0
        return json.loads(printed.splitlines()[-1])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def test_processes_that_prepare_digits_at_the_same_time_make_one_file(tmp_path: Path) -> None:
    loaders = [Loader("digits", tmp_path) for _ in range(3)]
    try:
        assert [loader.line() for loader in loaders] == ["ready"] * 3
        for loader in loaders:
            loader.go()
        results = [loader.result() for loader in loaders]
    finally:
        for loader in loaders:
            loader.close()
    assert [result[:3] for result in results] == [results[0][:3]] * 3
    assert sum(result[3] for result in results) == 1, "only one may have asked scikit-learn"
    assert left_in(tmp_path) == [".digits-1.safetensors.lock", "digits-1.safetensors"]


def test_of_two_processes_one_downloads_and_the_other_waits(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = mnist_files()
    published = [[mirror.url], [[name, md5(content)] for name, content in mirror.files.items()]]
    mirror.gate.clear()
    loaders = [Loader("mnist", tmp_path, published) for _ in range(2)]
    try:
        first, second = loaders
        assert [loader.line() for loader in loaders] == ["ready"] * 2
        first.go()
        # The whole download stands at the gate, so the second must meet the lock.
        wait_until((tmp_path / "MNIST/raw/.train-images-idx3-ubyte.gz.part").exists, DEADLINE_S, "downloading")
        second.go()
        assert second.line() == "waiting for another process that is preparing mnist-1.safetensors"
        mirror.gate.set()
        assert first.result() == second.result()
    finally:
        for loader in loaders:
            loader.close()
    assert mirror.served == dict.fromkeys(mirror.files, 1)


def test_what_a_killed_process_left_is_overwritten(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = mnist_files()
    published = [[mirror.url], [[name, md5(content)] for name, content in mirror.files.items()]]
    mirror.gate.clear()
    loader = Loader("mnist", tmp_path, published)
    part = tmp_path / "MNIST" / "raw" / ".train-images-idx3-ubyte.gz.part"
    try:
        assert loader.line() == "ready"
        loader.go()
        wait_until(part.exists, DEADLINE_S, "downloading")
    finally:
        loader.close()
    assert part.exists()
    mirror.gate.set()
    again = Loader("mnist", tmp_path, published)
    try:
        again.go()
        assert again.result()[0] == 20
    finally:
        again.close()
    assert not part.exists()


FULL_DISK = """
import json, pathlib, sys
from dljobs.errors import StorageFull
from dljobs.models.data import load_data
from torchvision.datasets import MNIST
root, MNIST.mirrors, MNIST.resources = json.loads(sys.argv[1])
answers = []
for name in ("digits", "mnist"):
    try:
        load_data(name, {}, pathlib.Path(root))
    except StorageFull as error:
        answers.append(str(error))
left = sorted(path.name for path in pathlib.Path(root).rglob("*") if path.is_file())
print(json.dumps([answers, left]))
"""


def test_on_a_really_full_disk_nothing_half_is_left(mirror: Mirror, tmp_path: Path) -> None:
    """A file system of 60 KiB, mounted in a namespace of its own that ends with the process."""
    files = mnist_files(num_train=200)
    mirror.files = files
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=60k none {disk} && exec "$@"',
        "sh",
    ]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no user mount a tmpfs in a namespace")
    argument = json.dumps([str(disk), [mirror.url], [[name, md5(content)] for name, content in files.items()]])
    ended = subprocess.run(
        [*alone, sys.executable, "-P", "-c", FULL_DISK, argument],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    answers, left = json.loads(ended.stdout.splitlines()[-1])
    assert [answer.split(":")[0] for answer in answers] == [
        f"no room left in the data folder {disk}",
        f"no room left in the data folder {disk / 'MNIST' / 'raw'}",
    ]
    assert left == [".digits-1.safetensors.lock", ".mnist-1.safetensors.lock"]


def test_progress_is_reported_each_two_seconds_and_five_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("dljobs.models.datasets.download.time.monotonic", lambda: now[0])
    progress = download.Progress("file", 100_000_000)
    for _ in range(1000):  # 10 s at 10 MB/s, in small pieces
        now[0] += 0.01
        progress.advance(100_000)
    progress.finish()
    slow = download.Progress("slow", 0)
    for _ in range(100):  # of unknown length
        now[0] += 0.05
        slow.advance(10_000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "downloading file (100.0 MB)"
    assert lines[1:5] == [f"downloading file: {share}% of 100.0 MB" for share in (20, 40, 60, 80)]
    assert lines[-3:] == ["downloading slow", "downloading slow: 0.4 MB", "downloading slow: 0.8 MB"]
    assert len(lines) <= 10
