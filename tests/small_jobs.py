"""Jobs small enough for tests: tiny data, tiny models, and models that misbehave, run by the real rank.

`main` is an entry for a `Launcher`: it reads `small_job.json` from the run's folder, puts the named model and
the tiny data in the zoo's place, and calls `rank.main`.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dljobs.models.data import Data, ItemSplit, TensorSplit
from dljobs.models.dynamic import DynamicNet
from dljobs.service.spec import JobSpec, Training
from dljobs.workers import rank, shared_sum
from dljobs.workers.channel import Event, read_events
from dljobs.workers.folder import RunFolder, RunRequest

NUM_TRAIN, NUM_TEST, NUM_FEATURES, NUM_CLASSES = 50, 23, 12, 4


def tiny_data(regression: bool = False) -> Data:
    """Four classes that a linear model can tell apart, nearly; or the four numbers that decide which it is."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(NUM_TRAIN + NUM_TEST, NUM_FEATURES, generator=generator)
    y = x[:, :NUM_CLASSES] if regression else x[:, :NUM_CLASSES].argmax(1)
    train, test = TensorSplit(x[:NUM_TRAIN], y[:NUM_TRAIN]), TensorSplit(x[NUM_TRAIN:], y[NUM_TRAIN:])
    if regression:
        return Data(train, test, sample_shape=(NUM_FEATURES,), task="regression")
    return Data(train, test, sample_shape=(NUM_FEATURES,), num_classes=NUM_CLASSES)


class Items:
    """Tiny data, sample by sample, with noise; one of them may end the process that reads it."""

    def __init__(self, deadly: bool = False) -> None:
        self.split, self.deadly = tiny_data().train, deadly

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        if self.deadly and index == 7 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = self.split.batch(torch.tensor([index]))
        return x[0] + torch.rand(1), y[0]


def data_of(model: str) -> Data:
    """What a job of the named model is trained on."""
    data = tiny_data(regression=model == "tiny-sse")
    if model.startswith("reads"):
        return dataclasses.replace(data, train=ItemSplit(Items(deadly=model == "reads-deadly")))
    return data


class Tiny(nn.Module):
    """An MLP with a running mean, and with dropout if asked for; `hook(self, x)` is called in each training forward."""

    def __init__(
        self, dropout: float = 0.0, hook: Callable[[Tiny, Tensor], Tensor] | None = None, width: int = 16
    ) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, width)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, NUM_CLASSES)
        self.register_buffer("num_forwards", torch.zeros((), dtype=torch.int64))
        self.num_forwards: Tensor
        self.hook = hook

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_forwards += 1
            if self.hook is not None:
                x = self.hook(self, x)
        out: Tensor = self.last(self.dropout(torch.relu(self.first(x))))
        return out


class Conv(nn.Module):
    """The twelve numbers as a picture of 3×4, for what concerns convolutions and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(96, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x.reshape(len(x), 1, 3, 4))))
        out: Tensor = self.last(self.dropout(torch.relu(self.second(x)).flatten(1)))
        return out


def _rank() -> int:
    return int(os.environ["RANK"])


def _raises(model: Tiny, x: Tensor) -> Tensor:
    if model.num_forwards == 3 and _rank() == int(os.environ["WORLD_SIZE"]) - 1:
        raise ValueError("the third batch is too much")
    return x


def _leaves_with_3(model: Tiny, x: Tensor) -> Tensor:
    if model.num_forwards == 3 and _rank() == 0:
        os._exit(3)
    return x


def _leaves_with_0(model: Tiny, x: Tensor) -> Tensor:
    if model.num_forwards == 3:
        os._exit(0)
    return x


def _is_killed(model: Tiny, x: Tensor) -> Tensor:
    if model.num_forwards == 3 and _rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _is_stubborn(model: Tiny, x: Tensor) -> Tensor:
    """Ignore SIGTERM, start a child that does the same, tell its pid, and hang."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"credentials: {[name for name in os.environ if name.startswith('DLJOBS')]}")
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    print(f"child {child.pid}", flush=True)
    time.sleep(600)
    return x


def _is_slow(model: Tiny, x: Tensor) -> Tensor:
    time.sleep(0.02)
    return x


def _is_very_slow(model: Tiny, x: Tensor) -> Tensor:
    time.sleep(0.1)
    return x


def _gives_nan(model: Tiny, x: Tensor) -> Tensor:
    return x * float("nan") if model.num_forwards == 6 else x


def _is_greedy(model: Tiny, x: Tensor) -> Tensor:
    """More than 3 samples at once are too many for the last rank, as on a GPU with little memory left."""
    if len(x) > 3 and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return x


def _writes(model: Tiny, x: Tensor) -> Tensor:
    print(f"forward {int(model.num_forwards)}")
    os.write(1, b"from C\n")
    return x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tiny": Tiny,
    "tiny-sse": Tiny,
    "conv": Conv,
    "dropout": lambda: Tiny(dropout=0.3),
    "raises": lambda: Tiny(hook=_raises),
    "leaves-with-3": lambda: Tiny(hook=_leaves_with_3),
    "leaves-with-0": lambda: Tiny(hook=_leaves_with_0),
    "is-killed": lambda: Tiny(hook=_is_killed),
    "is-stubborn": lambda: Tiny(hook=_is_stubborn),
    "draws": lambda: DynamicNet(NUM_FEATURES, 16, NUM_CLASSES),
    "reads": lambda: Tiny(dropout=0.3),
    "reads-deadly": Tiny,
    "reads-slow": lambda: Tiny(hook=_is_very_slow),
    "tiny-gloo": Tiny,
    "conv-gloo": Conv,
    "dropout-slow": lambda: Tiny(dropout=0.3, hook=_is_slow),
    "large": lambda: Tiny(width=4000),  # 0.3 MB of weights
    "large-slow": lambda: Tiny(width=4000, hook=_is_very_slow),
    "is-slow": lambda: Tiny(hook=_is_slow),
    "gives-nan": lambda: Tiny(hook=_gives_nan),
    "is-greedy": lambda: Tiny(hook=_is_greedy, dropout=0.3),
    "writes": lambda: Tiny(hook=_writes),
}


def small_request(folder: Path, model: str = "tiny", world_size: int = 1, **changes: Any) -> RunRequest:
    """A request for one of MODELS. `changes` are fields of the request, of the spec or of its training section."""
    training: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 0.1, "momentum": 0.9, "seed": 5}
    spec: dict[str, Any] = {
        "model": model, "data": "tiny", "loss": "cross_entropy", "metric": "accuracy", "goal": "max",
        "strategy": "ddp" if world_size > 1 else "single", "num_devices": world_size,
    }  # fmt: skip
    request: dict[str, Any] = {
        "job_id": 1, "run_number": 1, "device_kind": "cpu", "devices": [f"cpu-{i}" for i in range(world_size)],
        "world_size": world_size, "num_threads": 1, "data_dir": str(folder), "folder": str(folder),
    }  # fmt: skip
    for name, value in changes.items():
        part = next(
            (part for part, kind in ((training, Training), (spec, JobSpec)) if name in kind.__dataclass_fields__),
            request,
        )
        part[name] = value
    RunFolder(folder).create()
    return RunRequest(spec=JobSpec(training=Training(**training), **spec), **request)


def write_small(folder: Path, model: str = "tiny", world_size: int = 1, **changes: Any) -> RunFolder:
    """Lay out the run's folder for `main`."""
    small_request(folder, model, world_size, **changes).write()
    (folder / "small_job.json").write_text(json.dumps({"model": model}))
    return RunFolder(folder)


@contextmanager
def in_place_of_the_zoo(model: str) -> Iterator[None]:
    """While it is entered, workloads load the tiny data and the named model; those in `-gloo` sum by gloo alone."""
    workloads = mock.patch.multiple(
        "dljobs.workers.workload",
        load_data=lambda *_: data_of(model),
        build_model=lambda *_: MODELS[model](),
    )
    with (
        workloads,
        mock.patch("dljobs.workers.gradient._TRIED_ON", ("cuda", "cpu") if model == "is-greedy" else ()),
        mock.patch("dljobs.workers.shared_sum.MOST_RANKS", 0 if model.endswith("-gloo") else shared_sum.MOST_RANKS),
    ):
        yield


def main(run_json: str) -> None:
    """A rank with a small job; on success its log ends with the modules that the forkserver should have had."""
    before = set(sys.modules)
    with in_place_of_the_zoo(json.loads((Path(run_json).parent / "small_job.json").read_text())["model"]):
        rank.main(run_json)
    print(f"imported after the fork: {sorted(set(sys.modules) - before)}")


def events_of(folder: RunFolder, rank: int = 0, type_: str | None = None) -> list[Event]:
    """All events of a rank, or those of one type."""
    events, _ = read_events(folder.events(rank))
    return [event for event in events if type_ is None or event["type"] == type_]


def train_losses(folder: RunFolder) -> list[float]:
    """The training loss of each recorded step."""
    return [loss for event in events_of(folder, type_="losses") for loss in event["values"]]
