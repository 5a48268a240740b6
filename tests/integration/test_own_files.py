"""Models and data in files of one's own, through a real worker and real ranks: what was submitted is what runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dljobs.errors import CorruptArtifact
from dljobs.service import source_files, sources
from dljobs.service.doorbell import Doorbell
from dljobs.service.evaluation import evaluate_here, evaluate_on_worker
from dljobs.service.spec import JobSpec
from dljobs.service.submission import Request, prepare
from dljobs.service.tables import sources as table
from tests.cluster import Cluster, running_cluster
from tests.file_server import Server, images, tar
from tests.waiting import wait_until

NET = '''
import torch
from torch import nn

from blocks import block

class Net(nn.Module):
    """Says in the log which version it is."""

    def __init__(self, width: int = 8, num_classes=10):
        super().__init__()
        print("version", VERSION, "width", width)
        self.layers = nn.Sequential(nn.Flatten(), *block(1024, width), nn.Linear(width, num_classes))
        self.register_buffer("version", torch.tensor(VERSION))

    def forward(self, x):
        return self.layers(x)
'''
BLOCKS = "from torch import nn\n\ndef block(inputs, width):\n    return [nn.Linear(inputs, width), nn.ReLU()]\n"
DATA = """
import torch
from dljobs.models.data import Data, TensorSplit

def make_data(n: int = 40, labels: int = 3):
    x = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(x, torch.arange(n) % labels)
    return Data(split, split, sample_shape=(1, 32, 32), num_classes=labels)
"""
REGRESSION = """
import torch
from torch import nn
from dljobs.models.data import Data, TensorSplit

def line(root, slope: float = 2.0):
    x = torch.linspace(0, 1, 40)[:, None]
    split = TensorSplit(x, slope * x)
    return Data(split, split, sample_shape=(1,), task="regression")

def net(in_features, out_features):
    return nn.Linear(in_features, out_features)
"""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings: dict[str, Any] = {}
    if request.param == "postgres":
        settings["database_url"] = request.getfixturevalue("postgres_server").url_of_new_database()
    with running_cluster(tmp_path_factory.mktemp("home"), **settings) as cluster:
        cluster.start_worker("w1", 4)
        yield cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "blocks.py").write_text(BLOCKS)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "line.py").write_text(REGRESSION)
    write_net(tmp_path, 1)
    return tmp_path


def write_net(folder: Path, version: int) -> None:
    (folder / "net.py").write_text(NET.replace("VERSION", str(version)))


def submit(cluster: Cluster, folder: Path, *sets: str, **request: Any) -> int:
    whole: dict[str, Any] = {"with_folder": str(folder), "training": {"batch_size": 20}, **request}
    return cluster.submit(f"{folder}/net.py:Net", "epochs=1", *sets, **whole)


def test_two_versions_of_a_file_train_side_by_side_whatever_becomes_of_it(cluster: Cluster, folder: Path) -> None:
    cluster.ensure_workers("w1")
    jobs = {}
    for version in (1, 2):
        write_net(folder, version)
        jobs[version] = submit(cluster, folder, f"width={version * 4}", num_devices=2)
    (folder / "net.py").write_text("raise SystemExit('edited since')")
    (folder / "blocks.py").unlink()
    for version, job_id in jobs.items():
        job = cluster.wait_for_end(job_id)
        assert job["state"] == "succeeded", (job, cluster.log(job_id))
        assert f"version {version} width {version * 4}" in cluster.log(job_id)
        found = evaluate_here(cluster.database, cluster.settings, job_id, which="best", data=None, device="cpu")
        assert found["result"]["accuracy"] == json.loads(job["result_json"])["accuracy"], "loaded strictly, version too"
    assert not list((cluster.settings.home / "runs").iterdir()), "the copies are gone with the runs"


def test_equal_files_are_stored_once(cluster: Cluster, folder: Path) -> None:
    first, second = (submit(cluster, folder, held=True) for _ in range(2))
    specs = [JobSpec.from_json(cluster.job(job_id)["spec_json"]) for job_id in (first, second)]
    assert specs[0].model == "net.py:Net"
    assert specs[0].source_digests == specs[1].source_digests != []
    with cluster.database.read() as connection:
        rows = connection.execute(table.select().where(table.c.digest.in_(specs[0].source_digests))).all()
    assert len(rows) == 1


def test_data_of_ones_own(cluster: Cluster, folder: Path) -> None:
    data = f"{folder}/data.py:make_data"
    job_id = submit(cluster, folder, "labels=4", "n=60", data=data, with_folder=str(folder))
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", cluster.log(job_id)
    result = json.loads(job["result_json"])
    assert (result["num_samples"], list(result["per_class"])) == (60, ["0", "1", "2", "3"])
    alone = cluster.submit("lenet", "max_steps=1", data=data)
    assert cluster.wait_for_end(alone)["state"] == "succeeded", cluster.log(alone)
    queued = evaluate_on_worker(
        cluster.database, Doorbell(cluster.settings), cluster.settings, alone, which="last", data=data
    )
    job = cluster.wait_for_end(queued.job_id)
    assert json.loads(job["result_json"])["num_samples"] == 40


def test_images_and_tables_of_ones_own(cluster: Cluster, folder: Path) -> None:
    for number in range(20):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), colour).save(folder / "pictures" / name / f"{number}.png")
    (folder / "table.csv").write_text("a,b\n" + "".join(f"{n / 10},{3 * n}\n" for n in range(50)))
    images = cluster.submit("lenet", "split=0.25", "epochs=3", data=f"imagefolder:{folder}/pictures", num_devices=2)
    table = cluster.submit(
        f"{folder}/line.py:net", "task=regression", "epochs=30", "lr=0.3", data=f"csv:{folder}/table.csv"
    )
    gone = cluster.submit("lenet", data=f"imagefolder:{folder}/gone", max_retries=0)
    job = cluster.wait_for_end(images)
    assert job["state"] == "succeeded", cluster.log(images)
    result = json.loads(job["result_json"])
    assert (result["num_samples"], list(result["per_class"])) == (10, ["blue", "red"])
    job = cluster.wait_for_end(table)
    assert job["state"] == "succeeded", cluster.log(table)
    assert json.loads(job["result_json"])["loss"] < 1
    job = cluster.wait_for_end(gone, timeout_s=30)
    assert (job["state"], job["failure_class"]) == ("failed", "data")
    assert f"has no folder {folder}/gone" in job["reason"]


def test_an_undeclared_model_on_undeclared_regression_data(cluster: Cluster, folder: Path) -> None:
    file = f"{folder}/line.py"
    job_id = cluster.submit(f"{file}:net", "epochs=60", data=f"{file}:line", training={"lr": 0.3, "batch_size": 20})
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "succeeded", cluster.log(job_id)
    assert json.loads(job["result_json"])["loss"] < 1e-3


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("net.py", "import torch\ndef Net(): return torch.nn.Linear(7, 10)\n",
         ["net.py:Net cannot take samples of shape 1×32×32"]),
        ("net.py", "from torch.nn import *\ndef Net(): return Sequential(Flatten(), Linear(1024, 3))\n",
         ["net.py:Net has 3 outputs, and the data's labels go from 0 to 9"]),
        ("net.py", "def Net(): return 3\n", ["net.py:Net is no model", "gave a int"]),
        ("net.py", "import nowhere_to_be_found\ndef Net(): ...\n", ["ModuleNotFoundError", "(net.py:1)"]),
        ("net.py", "def Net():\n    raise KeyError('mine')\n", ["KeyError: 'mine'", "(net.py:2)"]),
        ("data.py", "def make_data(): return 3\n", ["data.py:make_data gave a int"]),
        ("data.py", DATA.replace("% labels)", "% (labels + 1))"), ["hold the label 3, and its 3 classes are 0 to 2"]),
    ],
)  # fmt: skip
def test_what_only_the_run_can_tell_fails_in_its_first_seconds(
    cluster: Cluster, folder: Path, file: str, text: str, words: list[str]
) -> None:
    (folder / file).write_text(text)
    data = f"{folder}/data.py:make_data" if file == "data.py" else None
    job = cluster.wait_for_end(submit(cluster, folder, data=data), timeout_s=30)
    assert job["state"] == "failed"
    assert job["failure_class"] in ("user", "data")
    for word in words:
        assert word in job["reason"]


def test_a_source_that_was_changed_in_the_database_never_runs(cluster: Cluster, folder: Path) -> None:
    write_net(folder, 77)
    new = prepare(Request(f"{folder}/net.py:Net", with_folder=str(folder), held=True), user="tester")
    (frozen,) = new.sources
    with cluster.database.write() as connection:
        sources.keep(connection, frozen)
        bad = table.update().where(table.c.digest == frozen.digest)
        connection.execute(bad.values(archive=frozen.archive.replace(b"77", b"78")))
    with pytest.raises(CorruptArtifact, match="does not match its digest"):
        source_files.extract_all(cluster.database, new.spec, folder / "out")
    job_id = submit(cluster, folder, max_retries=0)
    job = cluster.wait_for_end(job_id)
    assert job["state"] == "failed"
    assert "does not match its digest" in job["reason"]


def test_ranks_fetch_data_from_an_address_once_and_tell_of_it(cluster: Cluster) -> None:
    server = Server()
    server.files["x.tar.gz"] = tar(images())
    server.gate.clear()
    try:
        data = f"imagefolder:{server.url('x.tar.gz')}"
        submitted: dict[str, Any] = {"data": data, "strategy": "ddp", "num_devices": 2}
        sets = ("image_size=32", "channels=1", "epochs=1", "batch_size=4")
        job_id = cluster.submit("lenet", *sets, **submitted)
        wait_until(lambda: cluster.stage(job_id).startswith(("downloading x.tar.gz", "waiting for")), 60, "the stage")
        server.gate.set()
        job = cluster.wait_for_end(job_id)
        assert job["state"] == "succeeded", cluster.log(job_id)
        digest = hashlib.sha256(server.files["x.tar.gz"]).hexdigest()
        assert json.loads(job["result_json"])["data_sha256"] == digest
        assert sum(line.endswith(f"sha256 {digest}") for line in cluster.log(job_id)) == 1
        assert server.asked["x.tar.gz"] == 1
        wrong = cluster.submit("lenet", *sets, **{**submitted, "data": f"{data}#sha256={'0' * 64}"})
        assert cluster.wait_for_end(wrong)["state"] == "failed"
        (run,) = cluster.runs(wrong)
        assert run["failure_class"] == "data"
        assert f"has the sha256 {digest}, and not 000" in json.loads(run["error_json"])["message"]
    finally:
        server.close()
