"""Bad input and bad days, each as a user meets them: one clear sentence, the next step, the documented exit code."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dljobs as package
from tests.cluster import Cluster, running_cluster
from tests.e2e.conftest import CommandLine, command_line

SHORT = ("--epochs", 1, "--set", "max_steps=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenett",), "unknown model 'lenett': did you mean 'lenet'?"),
        (("lenet", "--data", "digit"), "unknown dataset 'digit': did you mean 'digits'?"),
        (("lenet", "--set", "num_clases=3"), "did you mean 'num_classes'?"),
        (("lenet", "--set", "num_classes=ten"), "takes a whole number, not 'ten'"),
        (("lenet", "--set", "nonsense"), "--set wants key=value, not 'nonsense'"),
        (("lenet", "--set", "optimizer=adm"), "did you mean 'adam'?"),
        (("lenet", "--strategy", "dpp", "--gpus", 2), "unknown strategy 'dpp'"),
        (("lenet", "--strategy", "single", "--gpus", 2), "strategy single trains on one device, not 2"),
        (("lenet", "--gpus", 4, "--batch-size", 62), "the nearest batch size that can is 60 or 64"),
        (("lenet", "--gpus", 0), "--gpus: '0' is no number of devices hint: nearest: --gpus 1"),
        (("lenet", "--gpus", "many"), "--gpus: 'many' is no number of devices"),
        (("lenet", "--epochs", "-1"), "epochs must be between 1 and"),
        (("lenet", "--lr", "nan"), "takes a number, not 'nan'"),
        (("lenet", "--lr", "1e99"), "lr must be between 0 and 1000"),
        (("lenet", "--time", "soon"), "'soon' is no duration"),
        (("lenet", "--priority", 1000), "priority must be between 0 and 100"),
        (("lenet", "--name", ""), "a name is 1 to 200 printable characters"),
        (("./nowhere.py:Net",), "there is no file nowhere.py"),
        ((f"{__file__}:test_unknown_job",), "did you mean 'test_unknown_jobs'?"),
        (("lenet", "--with", "."), "--with goes with a model or data in a file of your own"),
        (("lenet", "--data", "imagefolder"), "dataset imagefolder needs a path"),
        (("lenet", "--set", "num_classes=3"), "lenet was given 3 classes, and digits has 10"),
        (("resnet19",), "unknown model 'resnet19': did you mean 'resnet1"),
        (("resnet18", "--set", "weights=BEST"), "it takes one of none, DEFAULT, IMAGENET1K_V1"),
    ],
)
def test_a_wrong_submission_is_refused_whole(
    dljobs: CommandLine, service: Cluster, arguments: tuple[object, ...], message: str
) -> None:
    before = dljobs.json("status", "--all")
    done = dljobs("submit", *arguments)
    assert done.returncode == 2, done
    assert message in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(dljobs.json("status", "--all")["status"]["jobs"]) == len(before["status"]["jobs"]), "nothing was written"


def test_more_devices_than_any_worker_has_is_queued_with_the_reason(dljobs: CommandLine) -> None:
    done = dljobs("submit", "lenet", "--gpus", 8, "--parsable")
    assert done.returncode == 0
    assert "it needs 8 devices on one worker; the most that one worker has is 4" in done.stderr
    job_id = int(done.stdout)
    assert "the most that one worker has is 4" in dljobs.ok("why", job_id)
    dljobs.ok("cancel", job_id)
    assert dljobs("wait", job_id).returncode == 103


def test_unknown_jobs(dljobs: CommandLine) -> None:
    assert dljobs("show", 10**6).returncode == 102
    assert dljobs("show", "@9999").returncode == 102
    assert dljobs("show", "seven").returncode == 2


def test_unreachable_servers(dljobs: CommandLine, tmp_path: Path) -> None:
    postgres = "postgresql://someone:hunter2@127.0.0.1:9/none"
    done = dljobs("status", DLJOBS_DATABASE_URL=postgres)
    assert done.returncode == 1
    assert "hunter2" not in done.stderr
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    empty = dljobs("status", DLJOBS_HOME=str(tmp_path / "new"))
    assert empty.returncode == 1
    assert "dljobs up" in empty.stderr
    redis = dljobs("submit", "lenet", *SHORT, "--parsable", DLJOBS_REDIS_URL="redis://:hunter2@127.0.0.1:9/0")
    assert redis.returncode == 0, "the job is safe in the database, and a worker's sweep finds it"
    assert "Redis does not answer" in redis.stderr
    assert "hunter2" not in redis.stderr
    dljobs.ok("wait", redis.stdout.strip())


def test_another_schema(dljobs: CommandLine, service: Cluster, tmp_path: Path) -> None:
    service.database.close()
    for revision, cure in (("9999", "pip install --upgrade"), (None, "dljobs db upgrade")):
        copy = tmp_path / f"{revision}.db"
        with sqlite3.connect(service.settings.sqlite_path) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            if revision is None:
                target.execute("DROP TABLE dljobs_version")
            else:
                target.execute("UPDATE dljobs_version SET version_num = ?", (revision,))
        done = dljobs("status", DLJOBS_DATABASE_URL=f"sqlite:///{copy}")
        assert done.returncode == 1
        assert cure in done.stderr
        assert "Traceback" not in done.stderr


def test_a_device_that_does_not_exist(dljobs: CommandLine) -> None:
    for gpus in ("0-99", "7000", "GPU-none"):
        done = dljobs("worker", "--gpus", gpus, "--name", "nowhere")
        assert done.returncode == 2, done.stderr
        assert "GPU" in done.stderr
        assert "Traceback" not in done.stderr


def test_missing_data_says_where_to_put_which_files(dljobs: CommandLine, service: Cluster) -> None:
    job_id = dljobs.submit("lenet", "--data", "mnist", *SHORT)
    done = dljobs("wait", job_id)
    assert done.returncode == 100
    job = dljobs.json("show", job_id)["job"]
    assert job["failure_class"] == "data"
    shown = dljobs.ok("show", job_id)
    assert "train-images-idx3-ubyte.gz" in shown
    assert str(service.settings.data_dir) in shown


def spoiled_data(folder: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    """Submissions that only the data can tell to be wrong, each with the sentence that says it."""
    for name in ("train/red", "train/blue", "test/red", "test/blue"):
        (folder / "images" / name).mkdir(parents=True)
    (folder / "images/train/red/broken.png").write_text("no image")
    (folder / "images/train/blue/broken.png").write_text("no image")
    (folder / "images/test/red/broken.png").write_text("no image")
    (folder / "table.csv").write_text("a,b\n1,x\ntwo,y\n")
    net = folder / "net.py"
    net.write_text("from torch import nn\ndef Net(): return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))\n")
    return {
        "empty class": (("lenet", "--data", f"imagefolder:{folder}/images"), "class 'blue' is empty"),
        "text in a number": (
            (f"{net}:Net", "--data", f"csv:{folder}/table.csv"),
            "table.csv:3: 'two' in column 'a' is no number",
        ),
        "shape": ((f"{net}:Net", "--data", "fake"), "net.py:Net cannot take samples of shape 3×32×32"),
        "weights": (
            ("resnet18", "--set", "weights=DEFAULT", "--set", "size=8", "--max-retries", 0),
            "resnet18 with the weights IMAGENET1K_V1 needs the file",
        ),
    }


@pytest.mark.parametrize("what", ["empty class", "text in a number", "shape", "weights"])
def test_what_only_the_data_can_tell_fails_in_the_first_seconds(dljobs: CommandLine, tmp_path: Path, what: str) -> None:
    arguments, sentence = spoiled_data(tmp_path)[what]
    job_id = dljobs.submit(*arguments)
    assert dljobs("wait", job_id, timeout_s=30).returncode == 100
    assert sentence in dljobs.json("show", job_id)["job"]["reason"]


def test_a_nan_loss_names_its_step(dljobs: CommandLine) -> None:
    job_id = dljobs.submit("lenet", "--lr", 1000, "--set", "weight_decay=1000", "--gpus", 2)
    assert dljobs("wait", job_id).returncode == 100
    job = dljobs.json("show", job_id)["job"]
    assert job["failure_class"] == "user"
    assert "at step" in job["reason"]
    assert len(job["runs"]) == 1, "a user's fault is not retried"


def test_a_corrupt_blob_is_found_before_it_is_used(dljobs: CommandLine, service: Cluster, tmp_path: Path) -> None:
    # Blobs are shared: with this seed nobody else's weights are damaged.
    job_id = dljobs.submit("lenet", *SHORT, "--seed", 171, "--wait")
    target = tmp_path / "weights.safetensors"
    (artifact,) = [a for a in dljobs.json("artifacts", job_id)["artifacts"] if a["kind"] == "state_dict"]
    with service.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE blobs SET data = zeroblob(length(data))"
            " WHERE digest IN (SELECT digest FROM artifact_blobs WHERE artifact_id = ?)",
            (artifact["id"],),
        )
    for command in (("export", job_id, "-o", target), ("eval", job_id)):
        done = dljobs(*command)
        assert done.returncode == 1
        assert "is corrupt: blob 0 does not match its digest" in done.stderr
    assert list(tmp_path.iterdir()) == []


RUN = "from dljobs.service.cli import main; main()"
RAISING_MODEL = '''
"""A model for a test."""
import torch
from torch import nn
from .catalog import model

@model("raises", summary="raises in the middle of an epoch", source="a test", num_parameters=10250, data="digits",
       loss="cross_entropy", metric="accuracy", goal="max", epochs=3, expected="a traceback")
class Raises(nn.Module):
    """Raises at its fifth forward in training.

    Args:
        at: the step
    """

    def __init__(self, at: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(1024, 10)
        self.at = at
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count += 1
            if self.count == self.at and torch.distributed.get_rank() == 1:
                raise ValueError(f"the model had enough of {tuple(x.shape)}")
        return self.linear(x.flatten(1))
'''


@pytest.fixture(scope="module")
def own_zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, CommandLine]]:
    """A service whose zoo has one model more: one file with one decorator, dropped into models/."""
    place = tmp_path_factory.mktemp("own")
    shutil.copytree(Path(package.__file__).parent, place / "dljobs", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "dljobs" / "models" / "raises.py").write_text(RAISING_MODEL)
    with pytest.MonkeyPatch.context() as patch, running_cluster(place / "home") as cluster:
        patch.setenv("PYTHONPATH", str(place))
        cluster.start_worker("w1", 2)
        dljobs = command_line(cluster)
        yield (
            cluster,
            CommandLine(dljobs.environment, (sys.executable, "-P", "-c", RUN)),
        )


def test_a_model_that_raises_in_mid_epoch_shows_its_own_traceback(own_zoo: tuple[Cluster, CommandLine]) -> None:
    _cluster, dljobs = own_zoo
    assert "raises" in dljobs.ok("models")
    job_id = dljobs.submit("raises", "--gpus", 2)
    assert dljobs("wait", job_id).returncode == 100
    job = dljobs.json("show", job_id)["job"]
    assert job["failure_class"] == "user"
    assert "rank 1 raised ValueError: the model had enough of (32, 1, 32, 32) (raises.py:" in job["reason"]
    assert len(job["runs"]) == 1
    shown = dljobs.ok("show", job_id)
    assert 'raise ValueError(f"the model had enough' in shown, "the model's own line"
    assert "ChildFailedError" not in shown


def test_a_full_data_folder(tmp_path: Path) -> None:
    """The home's `runs` folder is a file system too small for a LeNet's checkpoints."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "home" / "runs"
    small.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode()}")
    try:
        with running_cluster(tmp_path / "home") as cluster:
            cluster.start_worker("w1", 2)
            dljobs = command_line(cluster)
            job_id = dljobs.submit("lenet", "--epochs", 2, "--max-retries", 0)
            done = dljobs("wait", job_id)
            job = dljobs.json("show", job_id)["job"]
            log = dljobs.ok("logs", job_id)
            assert done.returncode in (0, 104), (job, log)
            assert "no room left" in log + job["reason"]
            whole = dljobs.json("artifacts", job_id)["artifacts"]
            for artifact in whole:
                assert artifact["size_bytes"] > 0
            assert not list(small.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", small], check=True)
