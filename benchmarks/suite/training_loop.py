"""The training loop: samples per second, beside loops written by hand and by others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import RAY, make_environment, optional, this_python
from benchmarks.peers.training_loop import Job
from benchmarks.processes import environment_with, run_timed
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from dljobs.models.datasets.prepared import prepared
from dljobs.service.submission import Request

MIN_RATIO = 0.98  # of the shortest loop by hand, on one rank
MIN_SPEEDUP = 1.45  # of two ranks over the loop by hand on one
TUTORIAL_STEPS, WHOLE_TUTORIAL = 2_000, 25_000
_SPEED = "samples/s"
_HAND, _DLJOBS, _ALONE = "tensors, by hand", "dljobs", "processes that do not speak"
_RAY = "Ray Train"
_PROGRAM = ("-m", "benchmarks.peers.training_loop")
_TIMEOUT_S = 1800.0
_PACKAGES = ("lightning", "accelerate")
# What users write, beside the shortest loop: its name in the peers' script.
_BY_HAND = {_HAND: "tensors", "DataLoader": "loader-0", "DataLoader, 2 workers": "loader-2"}
_BY_OTHERS = {"Lightning": "lightning", "Accelerate": "accelerate"}
_ON_RANKS = {_HAND: "tensors", _ALONE: "alone"}

_LENET = Job("lenet", 1, num_train=1437, num_test=360, batch_size=64, epochs=40, lr=0.01, momentum=0.9)
_RESNET = Job("resnet18", 3, num_train=512, num_test=128, batch_size=64, epochs=2, lr=0.01, momentum=0.9)
_TUTORIAL = Job("lenet-cifar", 3, 4 * TUTORIAL_STEPS, num_test=1000, batch_size=4, epochs=1, lr=0.001, momentum=0.9)


@dataclass(frozen=True)
class Case:
    """One job on one number of ranks, and who takes part."""

    name: str
    job: Job
    num_ranks: int
    peers: Sequence[str]  # the first is dljobs


def measure(sitting: Sitting) -> Result:
    """Every case in turn; in each, every peer once a round."""
    values, notes = Values(_SPEED), list[str]()
    with contextlib.ExitStack() as stack:
        sitting.say("starting a worker")
        service = stack.enter_context(running_service(sitting.folder / "home", cpu_devices=2))
        programs, starts_s = _programs(sitting, notes), list[float]()
        for case in _cases(sitting, programs):
            _make_pictures(service, case.job)
            for number, peer in enumerate(interleaved(case.peers, sitting.num_rounds)):
                if number % len(case.peers) == 0:
                    sitting.say(f"{case.name}: round {number // len(case.peers) + 1} of {sitting.num_rounds}")
                if peer == _DLJOBS:
                    seconds = _dljobs(service, case)
                elif peer == _RAY:
                    seconds, start_s = _ray(sitting.folder, programs[_RAY], case)
                    starts_s.append(start_s)
                else:
                    seconds = _script(sitting.folder, programs[_HAND], case, peer)
                values.add(case.name, _SPEED, peer, case.job.num_train * case.job.epochs / seconds)
    if starts_s:
        told = f"{statistics.median(starts_s):.1f} s (median of {len(starts_s)})"
        notes.append(f"Ray Train's start, its head and its ranks until the first step, is left out: {told}.")
    return _judge(values, notes)


def _programs(sitting: Sitting, notes: list[str]) -> dict[str, str]:
    """By peer the Python that runs it; whoever cannot be installed is missing."""
    found = dict.fromkeys((*_BY_HAND, *_ON_RANKS), this_python())
    with optional(" and ".join(_BY_OTHERS), notes):
        python = make_environment(sitting, "loops", _PACKAGES)
        found |= dict.fromkeys((*found, *_BY_OTHERS), python)  # all in the same
    with optional(_RAY, notes):
        found[_RAY] = make_environment(sitting, "ray", RAY)
    return found


def _cases(sitting: Sitting, programs: Mapping[str, str]) -> list[Case]:
    others = [peer for peer in (*_BY_OTHERS, _RAY) if peer in programs]
    one, two = [_DLJOBS, *_BY_HAND, *others], [_DLJOBS, *_ON_RANKS, *others]
    if sitting.is_smoke:
        short = dataclasses.replace(_LENET, epochs=1, num_train=256)
        return [Case("LeNet, 1 rank", short, 1, one[:2]), Case("LeNet, 2 ranks", short, 2, two[:2])]
    steps = WHOLE_TUTORIAL if sitting.is_long else TUTORIAL_STEPS
    # 25,000 steps of 4 are two passes over the 50,000 pictures.
    epochs = max(1, 4 * steps // 50_000)
    tutorial = dataclasses.replace(_TUTORIAL, num_train=4 * steps // epochs, epochs=epochs)
    return [
        Case("LeNet, 1 rank", _LENET, 1, one),
        Case("LeNet, 2 ranks", _LENET, 2, two),
        Case("ResNet-18, 1 rank", _RESNET, 1, one),
        Case("ResNet-18, 2 ranks", _RESNET, 2, two),
        Case(f"tutorial, {steps:,} steps", tutorial, 1, [_DLJOBS, _HAND, "DataLoader, 2 workers"]),
    ]


def _dljobs(service: Service, case: Case) -> float:
    """Seconds of the training, by rank 0's clock: with everything between its first step and its last artifact."""
    job = case.job
    training = {"epochs": job.epochs, "batch_size": job.batch_size, "lr": job.lr}
    sets = [f"momentum={job.momentum}", "schedule=constant", "print_every=0"]
    data = {"lenet": "digits", "lenet-cifar": "cifar10"}.get(job.model, "fake")
    if data == "fake":
        # Left alone, it would ask for the pictures of 224×224 that it is made for.
        sets += [f"size={job.num_train}", f"test_size={job.num_test}", "image_size=32"]
    elif data == "digits" and job.epochs == 1:  # less than all of it
        sets += [f"max_steps={job.num_train // job.batch_size}"]
    request = Request(job.model, num_devices=case.num_ranks, data=data, training=training, sets=sets)
    run = service.wait_for_success(service.submit(request), _TIMEOUT_S)
    return float(json.loads(run["result_json"])["train_seconds"])


def _script(folder: Path, python: str, case: Case, peer: str) -> float:
    file = folder / "seconds"
    file.unlink(missing_ok=True)
    loop = {**_BY_HAND, **_BY_OTHERS, **_ON_RANKS}[peer]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.num_ranks)]
    command = [python, *(launcher if case.num_ranks > 1 else [])]
    job = json.dumps(dataclasses.asdict(case.job))
    environment = environment_with(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    run_timed([*command, *_PROGRAM, job, loop, str(file)], environment, _TIMEOUT_S)
    return float(file.read_text())


def _ray(folder: Path, python: str, case: Case) -> tuple[float, float]:
    """Seconds of the training, and of the start before it."""
    file = folder / "ray-seconds"
    file.unlink(missing_ok=True)
    job = json.dumps(dataclasses.asdict(case.job))
    command = [python, "-m", "benchmarks.peers.ray_training", job, str(case.num_ranks), str(file)]
    run_timed(command, environment_with(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"), _TIMEOUT_S)
    seconds, start_s = map(float, file.read_text().split())
    return seconds, start_s


def _make_pictures(service: Service, job: Job) -> None:
    """Random pixels in the place of the 170 MB that cifar10 would download."""
    if job.model != "lenet-cifar":
        return

    def make() -> dict[str, torch.Tensor]:
        sizes = {"train": job.num_train, "test": job.num_test}
        images = {f"{part}-images": _bytes(256, num, 3, 32, 32) for part, num in sizes.items()}
        return images | {f"{part}-labels": _bytes(10, num) for part, num in sizes.items()}

    prepared(service.settings.data_dir / "cifar10-1.safetensors", make)


def _bytes(bound: int, *shape: int) -> torch.Tensor:
    return torch.randint(bound, shape, dtype=torch.uint8)


def _judge(values: Values, notes: list[str]) -> Result:
    result = Result(values.series())
    verdicts = []
    for each in result.series:
        ratio = result.ratio(each, _HAND)
        if each.peer == _DLJOBS and ratio is not None and "2 ranks" not in each.case:
            verdicts.append(Verdict(f"{each.case}: dljobs over the loop by hand", ratio, MIN_RATIO, is_minimum=True))
        if each.peer != _DLJOBS or "2 ranks" not in each.case:
            continue
        for peer, what in ((_HAND, "the loop by hand on one rank"), (_DLJOBS, "its one rank")):
            one = result.find(each.case.replace("2 ranks", "1 rank"), _SPEED, peer)
            if one is not None:
                speedup = each.median / one.median
                verdicts.append(Verdict(f"{each.case}: dljobs over {what}", speedup, MIN_SPEEDUP, is_minimum=True))
    return Result(result.series, tuple(verdicts), tuple(notes))


BENCHMARK = Benchmark(
    name="training_loop",
    title="The training loop",
    about=(
        "Training samples per second, CPU, one thread in each rank, SGD with momentum, from before the first step to "
        "the end of the last epoch; start-up and loading are left out for all. Everybody evaluates after each epoch. "
        "**dljobs** is a job of a running service, so that its figure has everything in it that the others do not do: "
        "losses of every step and progress reported into SQL, and after each epoch two files, weights and a checkpoint "
        "(written in the background, but waited for at the end); its LeNets lie channels-last in memory, as the zoo "
        "declares them. **Tensors, by hand**: the shortest loop "
        "over tensors in memory, batches by index, saving and telling nothing; on two ranks under torchrun and DDP. "
        "**DataLoader** reads the loss by `.item()` in each step, as the tutorials do. **Lightning** saves a "
        "checkpoint after each epoch, **Accelerate** and **Ray Train** (with its prepared model and loader) nothing; "
        "they are installed into environments that borrow this torch. **Processes that do not speak** take their share "
        "of each batch and never meet: no two ranks can be faster. LeNet: 1,437 digits of 1×32×32, batch 64, 40 epochs "
        "of 23 steps, 0.1 s each: what is "
        "done after an epoch weighs much. ResNet-18: 512 pictures of 3×32×32, batch 64. The tutorial's job: LeNet on "
        "3×32×32 in batches of 4 over pictures held as bytes (`--long`: all 25,000 steps of it)."
    ),
    baselines=(_HAND,),
    num_rounds=5,
    measure=measure,
)
