"""Weights into the store and out of it, beside files: how fast, how fast if most is there already, in what memory."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.processes import environment_with, run_timed
from benchmarks.result import Result, Values, Verdict, median_ratio
from benchmarks.stores import Store, postgres_store, sqlite_store
from dljobs.models.lenet import LeNet
from dljobs.service.submission import Request, prepare
from dljobs.workers import random_state
from dljobs.workers.artifacts import ArtifactWriter
from dljobs.workers.channel import EventWriter
from dljobs.workers.checkpoint import Checkpoint, copy_optimizer
from dljobs.workers.plan import Plan
from dljobs.workers.progress import Progress
from dljobs.workers.stored_weights import load_state_dict
from dljobs.workers.weights import copy_to_host, write_state_dict

T = TypeVar("T")
StateDict = dict[str, Tensor]


def _of_torchvision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name)
    return model


CASES: dict[str, Callable[[], nn.Module]] = {
    "LeNet": LeNet,
    "ResNet-18": functools.partial(_of_torchvision, "resnet18"),
    "ViT-B/16": functools.partial(_of_torchvision, "vit_b_16"),
}
CHANGED_SHARE = 0.01
MAX_MEMORY_MIB = 64
MIN_CHANGED_SPEED = 5.0
NUM_CHECKPOINTS = 10
MAX_CHECKPOINTS_SIZE = 1.1
STALLED = ("LeNet", "ResNet-18")  # a ViT-B/16 with Adam's state is 1 GB
MAX_STALL = 1.25  # of a plain copy of the same tensors
_WRITE, _CHANGED, _READ, _STALL = "write", "write, 1% changed", "read", "stall"
_TORCH, _RANKS_FILE, _SQLITE, _POSTGRES = "torch.save/load", "the rank's file", "SQLite", "Postgres"
_OVER, _FLOOR, _CLONE, _CHECKPOINT = "torch.save over a file", "floor", "clone()", "a checkpoint"
# Speeds over torch's, by what is measured.
GOALS = {(_SQLITE, _WRITE): 0.6, (_POSTGRES, _WRITE): 0.35, (_SQLITE, _READ): 0.5, (_POSTGRES, _READ): 0.3}


def measure(sitting: Sitting) -> Result:
    """Every size with every peer; then what storing and loading the largest takes in memory."""
    values, notes = Values(), list[str]()
    with contextlib.ExitStack() as stack:
        stores = {_SQLITE: stack.enter_context(sqlite_store(sitting.folder / "s"))}
        try:
            stores[_POSTGRES] = stack.enter_context(postgres_store(sitting.folder / "p"))
        except ImportError as error:
            notes.append(f"Postgres was left out: {error}")
        for name in list(CASES)[: 1 if sitting.is_smoke else None]:
            state_dict = _new_state_dict(name)
            case = f"{name}, {_size(state_dict) / 1e6:.3g} MB"
            peers: dict[str, Callable[[StateDict], Mapping[str, float]]] = {
                _TORCH: functools.partial(_with_torch, sitting.folder),
                _OVER: functools.partial(_with_torch_over, sitting.folder),
                _FLOOR: functools.partial(_with_bytes, sitting.folder),
                _RANKS_FILE: functools.partial(_with_safetensors, sitting.folder),
                **{peer: functools.partial(_with_store, sitting.folder, store) for peer, store in stores.items()},
            }
            if not sitting.is_smoke:
                for run in peers.values():  # a round to get warm
                    run(state_dict)
            for number, peer in enumerate(interleaved(list(peers), sitting.num_rounds)):
                if number % len(peers) == 0:
                    sitting.say(f"{case}: round {number // len(peers) + 1} of {sitting.num_rounds}")
                for quantity, seconds in peers[peer](state_dict).items():
                    values.add(case, quantity, peer, seconds)
            if name in STALLED:
                _measure_stall(sitting, name, values)
        judged = list(stores.items())[: 1 if sitting.is_smoke else None]
        verdicts = [_judge_memory(sitting.folder, peer, store, state_dict) for peer, store in judged]
        if not sitting.is_smoke:
            verdicts.append(_judge_checkpoints(sitting, values, stores))
    result = Result(values.series())
    return Result(result.series, (*_judge(result), *(each for pair in verdicts for each in pair)), tuple(notes))


def _new_state_dict(name: str) -> StateDict:
    """Tensors of the model's shapes."""
    with torch.device("meta"):
        shapes = CASES[name]().state_dict()
    return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in shapes.items()}


def _size(state_dict: StateDict) -> int:
    return sum(tensor.nbytes for tensor in state_dict.values())


def _train(state_dict: StateDict, share: float = 1.0) -> None:
    """New values for the largest tensors that are this share of the bytes together."""
    room = share * _size(state_dict)
    for tensor in sorted(state_dict.values(), key=lambda tensor: tensor.nbytes, reverse=True):
        if tensor.nbytes <= room and tensor.is_floating_point():
            tensor.normal_()
            room -= tensor.nbytes


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    """How long it took, and what it returned: giving its memory back is not part of it."""
    begun = time.perf_counter()
    found = action()
    return time.perf_counter() - begun, found


def _with_torch(folder: Path, state_dict: StateDict) -> dict[str, float]:
    path = folder / "weights.pt"

    def load() -> object:
        return torch.load(path, weights_only=True)

    _train(state_dict)
    _remove(path)
    write_s, _ = _timed(lambda: _torch_save(state_dict, path))
    _train(state_dict, CHANGED_SHARE)
    _remove(path)
    changed_s, _ = _timed(lambda: _torch_save(state_dict, path))
    load()
    read_s, _ = _timed(load)
    return {_WRITE: write_s, _CHANGED: changed_s, _READ: read_s}


def _with_torch_over(folder: Path, state_dict: StateDict) -> dict[str, float]:
    path = folder / "over.pt"
    if not path.exists():
        _torch_save(state_dict, path)
    _train(state_dict)
    write_s, _ = _timed(lambda: _torch_save(state_dict, path))
    return {_WRITE: write_s}


def _torch_save(state_dict: StateDict, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state_dict, file)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """So that the file system has nothing to give back while the next file is written: that can take longer."""
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _with_bytes(folder: Path, state_dict: StateDict) -> dict[str, float]:
    """As many bytes as there are, and as have changed, into a file and onto the disk; out of it into memory."""
    path = folder / "bytes"
    content = memoryview(os.urandom(_size(state_dict)))
    memory = bytearray(len(content))

    def save(share: float) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(content[: int(share * len(content))])
            os.fsync(file.fileno())

    def load() -> None:
        with path.open("rb", buffering=0) as file:
            file.readinto(memory)

    _remove(path)
    changed_s, _ = _timed(lambda: save(CHANGED_SHARE))
    _remove(path)
    write_s, _ = _timed(lambda: save(1.0))
    load()
    read_s, _ = _timed(load)
    return {_WRITE: write_s, _CHANGED: changed_s, _READ: read_s}


def _with_safetensors(folder: Path, state_dict: StateDict) -> dict[str, float]:
    path = folder / "weights.safetensors"
    _train(state_dict)
    _remove(path)
    write_s, _ = _timed(lambda: write_state_dict(state_dict, {}, path))
    _train(state_dict, CHANGED_SHARE)
    _remove(path)
    changed_s, _ = _timed(lambda: write_state_dict(state_dict, {}, path))
    return {_WRITE: write_s, _CHANGED: changed_s}


def _with_store(folder: Path, store: Store, state_dict: StateDict) -> dict[str, float]:
    path = folder / "weights.safetensors"
    store.empty()
    _train(state_dict)
    _remove(path)
    write_state_dict(state_dict, {}, path)
    write_s, _ = _timed(lambda: store.put("first", path))
    store.settle()
    _train(state_dict, CHANGED_SHARE)
    _remove(path)
    write_state_dict(state_dict, {}, path)
    changed_s, artifact_id = _timed(lambda: store.put("second", path))
    store.settle()

    def read() -> StateDict:
        return load_state_dict(store.artifacts.open(artifact_id))

    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in read().items())
    read_s, _ = _timed(read)
    return {_WRITE: write_s, _CHANGED: changed_s, _READ: read_s}


def _judge(result: Result) -> list[Verdict]:
    verdicts = []
    for (peer, quantity), goal in GOALS.items():
        for each in result.series:
            if (each.peer, each.quantity) == (peer, quantity) and (base := result.find(each.case, quantity, _TORCH)):
                claim = f"{each.case}: {quantity} on {peer}, speed over torch's"
                verdicts.append(Verdict(claim, median_ratio(base.values, each.values), goal, is_minimum=True))
    for each in result.series:
        first = result.find(each.case, _WRITE, each.peer)
        if each.quantity == _CHANGED and each.peer in (_SQLITE, _POSTGRES) and first is not None:
            claim = f"{each.case}: write of 1% changed on {each.peer}, speed over the first write"
            ratio = median_ratio(first.values, each.values)
            verdicts.append(Verdict(claim, ratio, MIN_CHANGED_SPEED, is_minimum=True))
    for each in result.series:
        if each.peer == _CHECKPOINT and (base := result.find(each.case, _STALL, _CLONE)):
            ratio = median_ratio(each.values, base.values)
            verdicts.append(Verdict(f"{each.case}: stall of a checkpoint, over clone()", ratio, MAX_STALL))
    return verdicts


def _measure_stall(sitting: Sitting, name: str, values: Values) -> None:
    """How long the training waits for a checkpoint, with the state of Adam, beside a copy of the same tensors."""
    model = CASES[name]()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    spec = prepare(Request("lenet"), "benchmark").spec
    plan = Plan(steps=1, epochs=1, num_samples=1, batch_size=1, seed=0)
    folder = sitting.folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    writer = ArtifactWriter(folder, EventWriter(folder / "events"))

    def clone() -> object:
        states = optimizer.state_dict()["state"].values()
        tensors = [*model.state_dict().values(), *(tensor for state in states for tensor in state.values())]
        return [tensor.detach().clone() for tensor in tensors]

    def checkpoint() -> None:
        copies = copy_to_host(model.state_dict()), copy_optimizer(optimizer)
        taken = Checkpoint.of(*copies, Progress(), [random_state.capture()], spec, plan)
        writer.write(taken.write, {"kind": "checkpoint", "name": "step-1"})

    waits = {_CLONE: clone, _CHECKPOINT: checkpoint}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's would spin where others want the processors
    case = f"{name} and Adam's state, {3 * _size(model.state_dict()) / 1e6:.3g} MB"
    for number, peer in enumerate(interleaved(list(waits), sitting.num_rounds + 1)):
        seconds, _ = _timed(waits[peer])
        writer.flush()  # the disk is given time; an epoch may be shorter, and then the training waits for it
        if number >= len(waits):
            values.add(case, _STALL, peer, seconds)
    torch.set_num_threads(num_threads)


def _judge_checkpoints(sitting: Sitting, values: Values, stores: Mapping[str, Store]) -> list[Verdict]:
    """Store a ResNet-18 as it is trained on, of which only the head and the batch norms' statistics change."""
    import torchvision

    model = torchvision.models.resnet18(num_classes=10)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    case = f"ResNet-18, frozen backbone, {_size(model.state_dict()) / 1e6:.3g} MB"
    path = sitting.folder / "weights.safetensors"
    for store in stores.values():
        store.empty()
    for number in range(NUM_CHECKPOINTS):
        sitting.say(f"{case}: checkpoint {number + 1} of {NUM_CHECKPOINTS}")
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.randint(10, (8,)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say
        optimizer.step()
        write_state_dict(model.state_dict(), {}, path)
        for peer, store in stores.items():
            seconds, _ = _timed(functools.partial(store.put, f"checkpoint {number}", path))
            values.add(case, "write, the next ones" if number else "write, the first", peer, seconds)
            store.settle()
    verdicts = []
    for peer, store in stores.items():
        size = store.stock().blob_bytes / path.stat().st_size
        claim = f"{case}: bytes of {NUM_CHECKPOINTS} checkpoints on {peer}, over those of one"
        verdicts.append(Verdict(claim, size, MAX_CHECKPOINTS_SIZE))
        store.empty()
    return verdicts


def _judge_memory(folder: Path, peer: str, store: Store, state_dict: StateDict) -> list[Verdict]:
    path = folder / "weights.safetensors"
    _train(state_dict)
    write_state_dict(state_dict, {}, path)
    program = [sys.executable, "-m", "benchmarks.store_memory"]
    environment = environment_with(**store.settings.to_environment())

    def measured_mib(*arguments: str) -> float:
        return int(run_timed([*program, *arguments], environment).output.split()[-1]) / 2**20

    put = measured_mib("put", str(store.key.run_id), store.key.token, str(path))
    load = measured_mib("load", str(store.put("to load", path)))
    store.empty()
    return [
        Verdict(f"{_size(state_dict) / 1e6:.3g} MB: MiB beyond the tensors, {what} on {peer}", mib, MAX_MEMORY_MIB)
        for what, mib in (("write", put), ("read", load))
    ]


BENCHMARK = Benchmark(
    name="artifacts",
    title="Weights into the store and out of it",
    about=(
        "State_dicts with the shapes of three models and random values. **write**: a whole file to the last durable "
        "commit, with digests, on a fresh store; ranks write that file first (**the rank's file**: safetensors, "
        "fsync, rename), and the upload runs beside the training. **1% changed**: the same again, with new values "
        "in tensors that are 1% of the bytes. **read**: to tensors in memory of their own, each byte verified, file "
        "or database in the page cache. torch.save and torch.load are a plain file with fsync; both copy every "
        "byte, and neither verifies anything. All files are new ones, whose forerunners were removed before; **over "
        "a file** is what a script pays that has one name for all. **floor**: as many bytes, from memory to a file "
        "and the disk, and back into memory that the process has already; of what has changed, only that. Databases "
        "move their logs into their tables between the measurements, as they do in the background otherwise; "
        "Postgres is a private server with default settings on the same machine. **stall**: how long the training "
        "waits when a checkpoint is taken, with random state and the hand-over to the thread that writes it, beside "
        "a plain copy of the same tensors on one thread. Memory is what a process of its own needs beyond what it "
        "had after its imports."
    ),
    baselines=(_TORCH, _CLONE),
    num_rounds=9,
    measure=measure,
    ours=(_SQLITE, _POSTGRES, _RANKS_FILE, _CHECKPOINT),
)
