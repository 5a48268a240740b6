"""From submit to the end of the first training step."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import RAY, make_environment, optional
from benchmarks.processes import answering, environment_with, python_script, run_timed
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from dljobs.service.submission import Request

RANKS = (1, 2, 4)
SMOKE_RANKS = (2,)
MAX_RATIO = 0.06  # of torchrun's time, in the median, at each number of ranks
MAX_SPREAD = 2.0  # p95 over the median
MAX_FIRST_RATIO = 1.5  # between the first two jobs after "ready": a warm-up would be twenty times as much
# SQLite's clock counts milliseconds, and the two clocks are read one after the other.
MAX_CLOCK_DIFFERENCE_S = 0.005
_FIRST_STEP, _STARTED = "first step", "all ranks started"
_API, _CLI, _TORCHRUN, _FLOOR = "dljobs, Python API", "dljobs submit", "torchrun --standalone", "floor: fork"
_TORCHX, _RAY = "TorchX, dist.ddp", "Ray Train, head running"
_AFTER_READY, _FIRST, _SECOND = "1 rank, after ready", "dljobs, the worker's first job", "dljobs, its second job"
_PROGRAM = ("-m", "benchmarks.peers.one_step")
Take = Callable[[int], float]  # seconds to the end of the first step, of so many ranks


@dataclass(frozen=True)
class Entry:
    """One who takes part, at these numbers of ranks."""

    peer: str
    take: Take
    ranks: Sequence[int] = RANKS


@dataclass
class Submissions:
    """Submits to a service, and keeps what else is seen of each job."""

    service: Service
    started_s: list[tuple[int, str, float]] = field(default_factory=list)  # ranks, peer
    clock_differences: list[float] = field(default_factory=list)

    def through_api(self, num_ranks: int) -> float:
        """As a Python program does."""
        return self._observe(_API, num_ranks, lambda: submit_training(self.service, num_ranks))

    def through_shell(self, num_ranks: int) -> float:
        """As a user does."""
        command = [*python_script("dljobs"), "submit", "lenet", "--gpus", str(num_ranks), "--epochs", "1", "--parsable"]
        environment = self.service.environment
        return self._observe(_CLI, num_ranks, lambda: int(run_timed(command, environment).output))

    def forget(self) -> None:
        """What was seen was a warm-up."""
        self.started_s.clear()
        self.clock_differences.clear()

    def _observe(self, peer: str, num_ranks: int, submit: Callable[[], int]) -> float:
        begin, begin_by_ours = self.service.read_clock(), time.time()
        run = self.service.wait_for_success(submit())
        first_step_s: float = run["first_step_at"] - begin
        by_ranks_s = self.service.read_rank_clock(run["id"], step=1) - begin_by_ours
        self.started_s.append((num_ranks, peer, run["started_at"] - begin))
        self.clock_differences.append(abs(first_step_s - by_ranks_s))
        return first_step_s


def measure(sitting: Sitting) -> Result:
    """All peers at each number of ranks, every one once a round."""
    all_ranks = SMOKE_RANKS if sitting.is_smoke else RANKS
    values, notes = Values(), list[str]()
    with contextlib.ExitStack() as stack:
        sitting.say("starting a worker and the floor's process")
        service = stack.enter_context(running_service(sitting.folder / "home", cpu_devices=max(RANKS)))
        submissions = Submissions(service)
        floor = [sys.executable, "-m", "benchmarks.peers.fork_floor"]
        ask_floor = stack.enter_context(answering(floor, environment_with(), sitting.folder))
        entries = [
            Entry(_TORCHRUN, functools.partial(_torchrun, sitting.folder)),
            Entry(_API, submissions.through_api),
            Entry(_CLI, submissions.through_shell),
            Entry(_FLOOR, lambda num_ranks: float(ask_floor(str(num_ranks)))),
        ]
        for ranks, entry in _turns(all_ranks, entries) if not sitting.is_smoke else ():
            sitting.say(f"warm-up, {_ranks(ranks)}, {entry.peer}")
            entry.take(ranks)
        entries += _others(sitting, stack, notes)
        turns = _turns(all_ranks, entries)
        submissions.forget()
        for number, (ranks, entry) in enumerate(interleaved(turns, sitting.num_rounds)):
            sitting.say(f"round {number // len(turns) + 1} of {sitting.num_rounds}, {_ranks(ranks)}, {entry.peer}")
            values.add(_ranks(ranks), _FIRST_STEP, entry.peer, entry.take(ranks))
        for ranks, peer, seconds in submissions.started_s:
            values.add(_ranks(ranks), _STARTED, peer, seconds)
        notes.append(f"Redis {service.redis_version} on a unix socket, SQLite, default settings.")
    if not sitting.is_smoke:
        _measure_after_ready(sitting, values)
    return _judge(values, max(submissions.clock_differences), notes)


def submit_training(service: Service, num_ranks: int) -> int:
    """The job that is measured; returns its id."""
    return service.submit(Request("lenet", num_devices=num_ranks, training={"epochs": 1}))


def _torchrun(folder: Path, num_ranks: int) -> float:
    options = ["--standalone", "--nproc-per-node", str(num_ranks)]
    return _command(folder, [*python_script("torchrun"), *options, *_PROGRAM])


def _command(folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Seconds from before a command is started until the script that it launches has taken its step."""
    answer = folder / "first-step"
    answer.unlink(missing_ok=True)
    begin = time.monotonic()
    run_timed([*command, str(answer)], environment or environment_with())
    return float(answer.read_text()) - begin


def _turns(all_ranks: Sequence[int], entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    return [(ranks, entry) for ranks in all_ranks for entry in entries if ranks in entry.ranks]


def _others(sitting: Sitting, stack: contextlib.ExitStack, notes: list[str]) -> list[Entry]:
    """Peers that have to be installed, after their warm-up."""
    found = []
    with optional(_TORCHX, notes):
        torchx = str(Path(make_environment(sitting, "torchx", ["torchx"], borrows=False)).with_name("torchx"))
        _torchx(sitting.folder, torchx, 1)
        found.append(Entry(_TORCHX, functools.partial(_torchx, sitting.folder, torchx), (1, 2)))
    with optional(_RAY, notes):
        python = make_environment(sitting, "ray", RAY)
        command = [python, "-m", "benchmarks.peers.ray_step", str(sitting.folder)]
        sitting.say("starting Ray's head")
        ask = stack.enter_context(answering(command, environment_with(), sitting.folder))
        ask("2")
        found.append(Entry(_RAY, lambda num_ranks: float(ask(str(num_ranks))), (2,)))
    return found


def _torchx(folder: Path, torchx: str, num_ranks: int) -> float:
    # Its component calls `torchrun` by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    component = ["dist.ddp", "-j", f"1x{num_ranks}", *_PROGRAM, "--"]
    command = [torchx, "run", "--scheduler", "local_cwd", "--wait", *component]
    return _command(folder, command, environment_with(PATH=path))


def _measure_after_ready(sitting: Sitting, values: Values) -> None:
    """The service is started anew for each round, in the same home: what is prepared once is there."""
    for number in range(sitting.num_rounds + 1):
        sitting.say(f"a new worker, {number} of {sitting.num_rounds}" if number else "a new worker, to get warm")
        with running_service(sitting.folder / "anew", cpu_devices=1) as service:
            submissions = Submissions(service)
            for peer in (_FIRST, _SECOND):
                seconds = submissions.through_api(1)
                if number:
                    values.add(_AFTER_READY, _FIRST_STEP, peer, seconds)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' if number > 1 else ''}"


def _judge(values: Values, worst_clock_s: float, notes: Sequence[str]) -> Result:
    result = Result(values.series())
    verdicts = []
    for each in result.series:
        ratio = result.ratio(each, _TORCHRUN)
        if each.peer == _API and ratio is not None:
            verdicts.append(Verdict(f"{each.case}: first step through the API over torchrun's", ratio, MAX_RATIO))
            claim = f"{each.case}: first step through the API, p95 over the median"
            verdicts.append(Verdict(claim, each.p95 / each.median, MAX_SPREAD))
        if each.peer == _FIRST and (ratio := result.ratio(each, _SECOND)) is not None:
            claim = "of the first two jobs after ready, the slower over the other"
            verdicts.append(Verdict(claim, max(ratio, 1 / ratio), MAX_FIRST_RATIO))
    claim = "seconds between the database's and the ranks' word on the first step"
    verdicts.append(Verdict(claim, worst_clock_s, MAX_CLOCK_DIFFERENCE_S))
    clocks = (
        "The moments of dljobs are those of the database's clock (SQLite: whole milliseconds). By rank 0's own clock "
        f"the first step came at most {math.ceil(worst_clock_s * 1000)} ms earlier or later, in any round."
    )
    return Result(result.series, tuple(verdicts), (clocks, *notes))


BENCHMARK = Benchmark(
    name="first_step",
    title="From submit to the first training step",
    about=(
        "LeNet on digits (batch of 64 shared out among the ranks, SGD with momentum), CPU; gloo and DDP where there "
        "are several ranks. **dljobs**: from before `prepare` to the end of rank 0's first step, everything included: "
        "validation, two commits, two doorbells, scheduling, claim, launch, loading the data, a check of the model on "
        "one sample, the step, and the ranks' agreement on its loss; the worker is warm (4 CPU devices) and otherwise "
        "idle. `dljobs submit` is the same from the shell, with the start of the command in it. **torchrun**: from "
        "before the command is started to the same moment in a script that builds the same model and takes the step on "
        "a random batch: it has no data to load and reports to nobody. **Floor**: ranks forked from a process that has "
        "torch loaded, process group, model, step, nobody watching. **TorchX** launches the same script under torchrun "
        "(`torchx run --scheduler local_cwd dist.ddp`), from before the command is started; **Ray Train** takes the "
        "same step, from before `TorchTrainer.fit`, on a head that runs already. A round measures each once, in turns; "
        "one unmeasured round comes before. `all ranks started` is when the worker notes it. **After ready**: the "
        "worker is started anew for each round, and gets its first job as soon as it says that it is ready."
    ),
    baselines=(_TORCHRUN, _FLOOR),
    num_rounds=10,
    measure=measure,
)
