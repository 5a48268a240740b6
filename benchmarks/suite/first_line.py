"""From submit to a job's first line, beside whoever else starts a process for it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import RAY, make_environment, optional
from benchmarks.processes import answering, environment_with, python_script, run_timed
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from dljobs.service.submission import Request

MAX_LINE_S = 0.04
_LINE = "first line"
_API, _SHELL = "api", "shell"
_CASES = {_API: "through the API", _SHELL: "from the shell"}
_DLJOBS, _FLOOR = "dljobs", "floor: fork with torch"


@dataclass(frozen=True)
class Peer:
    """Another one that starts a process for a job: its program, and what it needs."""

    name: str
    packages: tuple[str, ...]
    ways: tuple[str, ...] = (_API, _SHELL)


PEERS = {
    "RQ (fork)": Peer("rq", ("rq",)),
    "submitit, local": Peer("submitit", ("submitit",), (_API,)),
    "TorchX, local_cwd": Peer("torchx", ("torchx",)),
    "Ray Jobs, head running": Peer("ray", RAY),
}


def measure(sitting: Sitting) -> Result:
    """Everybody once a round, each with nobody else at work."""
    values, notes = Values(), list[str]()
    with contextlib.ExitStack() as stack:
        sitting.say("starting a worker")
        service = stack.enter_context(running_service(sitting.folder / "home", cpu_devices=1))
        floor = [sys.executable, "-m", "benchmarks.peers.many_forks"]
        ask_floor = stack.enter_context(answering(floor, environment_with(), sitting.folder))
        asked: dict[tuple[str, str], Callable[[], float]] = {}
        for way in _CASES:
            asked[way, _DLJOBS] = functools.partial(_submit, service, way)
            asked[way, _FLOOR] = lambda: float(ask_floor("1"))
        for take in asked.values() if not sitting.is_smoke else ():
            take()  # to get warm
        for name, peer in PEERS.items():
            with optional(name, notes):
                ask = stack.enter_context(_asking(sitting, service, peer))
                theirs = {(way, name): functools.partial(_answer, ask, way) for way in peer.ways}
                for take in theirs.values():
                    take()
                asked |= theirs
        for number, (way, name) in enumerate(interleaved(sorted(asked, key=_place), sitting.num_rounds)):
            if number % len(asked) == 0:
                sitting.say(f"round {number // len(asked) + 1} of {sitting.num_rounds}")
            values.add(_CASES[way], _LINE, name, asked[way, name]())
    result = Result(values.series())
    verdicts = tuple(
        Verdict(f"seconds from submit to the first line, {each.case}", each.median, MAX_LINE_S)
        for each in result.series
        if each.peer == _DLJOBS and each.case == _CASES[_API]
    )
    return Result(result.series, verdicts, tuple(notes))


def _place(key: tuple[str, str]) -> int:
    return list(_CASES).index(key[0])


def _answer(ask: Callable[[str], str], way: str) -> float:
    return float(ask(way))


@contextlib.contextmanager
def _asking(sitting: Sitting, service: Service, peer: Peer) -> Iterator[Callable[[str], str]]:
    python = make_environment(sitting, peer.name, peer.packages, borrows=peer.name == "ray")
    folder = sitting.folder / peer.name
    folder.mkdir()
    sitting.say(f"starting {peer.name}")
    command = [python, "-m", f"benchmarks.peers.{peer.name}_line", str(folder)]
    with answering(command, _environment(service), sitting.folder) as ask:
        yield ask


def _environment(service: Service) -> Mapping[str, str]:
    return environment_with(RQ_REDIS_URL=service.redis.url, PYTHONWARNINGS="ignore")


def _submit(service: Service, way: str) -> float:
    """Seconds until the rank's first line stands in the log, where anybody can read it; by the database's clock."""
    begin = service.read_clock()
    if way == _SHELL:
        command = [*python_script("dljobs"), "submit", "lenet", "--epochs", "1", "--set", "max_steps=1", "--parsable"]
        job_id = int(run_timed(command, service.environment).output)
    else:
        job_id = service.submit(Request("lenet", training={"epochs": 1}, sets=["max_steps=1"]))
    service.wait_for_success(job_id)
    return service.read_first_line_at(job_id) - begin


BENCHMARK = Benchmark(
    name="first_line",
    title="From submit to a job's first line",
    about=(
        "A job that could not be smaller, on an idle machine. **dljobs**: LeNet for one step, from before `prepare` "
        "until the first line of its rank stands in the log in SQL, where anybody can read it; the worker is warm and "
        "idle. For all others it is the moment at which the process itself begins, by its own word, and nothing is "
        "recorded yet: a function under **RQ** (a worker that waits on the same Redis, and forks) and **submitit** "
        "(its local executor), a Python process that imports nothing under **TorchX** (`local_cwd`: the client itself "
        "starts it) and **Ray Jobs** (a head runs already). From the shell: `dljobs submit`, `rq enqueue`, "
        "`torchx run` and `ray job submit`, from before the command is started. **Floor**: a process that has torch "
        "loaded forks one that ends. Slurm needs daemons that no package index has, and is not measured."
    ),
    baselines=(_FLOOR,),
    num_rounds=10,
    measure=measure,
)
