"""Many small jobs: how fast they are submitted, and how fast one worker goes through them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.commits import bare_commits
from benchmarks.environments import make_environment, optional
from benchmarks.processes import answering, environment_with, run_timed
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from benchmarks.stores import postgres_url
from dljobs.service.set_submission import enqueue_set, prepare_set
from dljobs.service.submission import Request
from dljobs.service.variation import Variation

NUM_JOBS, SMOKE_JOBS = 200, 8
NUM_SUBMITS, ARRAY = 200, 10_000
NUM_DEVICES = 8
THREADS = 4
MAX_RUN_S, MAX_SUBMIT_S, MAX_ARRAY_S = 1 / 120, 1 / 1000, 2.0
_DRAIN, _SUBMIT, _ARRAY = "drain, per job", "submit, per job", "an array, in all"
_SQLITE, _POSTGRES = "dljobs, SQLite", "dljobs, Postgres"
_CELERY, _RQ, _FLOOR = "Celery, functions (no process)", "RQ (fork)", "floor: fork with torch"
_BARE = "floor: the driver, insert and commit"
_PEERS = Path(__file__).parent.parent / "peers"


def measure(sitting: Sitting) -> Result:
    """Drains and submits, every peer once a round."""
    number = SMOKE_JOBS if sitting.is_smoke else NUM_JOBS
    values, skipped = Values(), []
    with contextlib.ExitStack() as stack:
        sitting.say("starting workers and the floor's process")
        services = {_SQLITE: stack.enter_context(running_service(sitting.folder / "s", cpu_devices=NUM_DEVICES))}
        if not sitting.is_smoke:
            try:
                url = stack.enter_context(postgres_url(sitting.folder / "p"))
                services[_POSTGRES] = stack.enter_context(
                    running_service(sitting.folder / "q", cpu_devices=NUM_DEVICES, database_url=url)
                )
            except ImportError as error:
                skipped.append(f"Postgres was not measured: {error}.")
        drains: dict[str, Callable[[int], float]] = {name: service.drain for name, service in services.items()}
        floor = [sys.executable, "-m", "benchmarks.peers.many_forks"]
        ask = stack.enter_context(answering(floor, environment_with(), sitting.folder))
        drains[_FLOOR] = lambda number: float(ask(str(number)))
        drains[_CELERY] = _program([sys.executable, "-m", "benchmarks.peers.celery_functions"], services[_SQLITE])
        with optional(_RQ, skipped):
            python = make_environment(sitting, "rq", ["rq"], borrows=False)
            drains[_RQ] = _program([python, str(_PEERS / "rq_functions.py")], services[_SQLITE])
        for drain in drains.values() if not sitting.is_smoke else ():
            drain(SMOKE_JOBS)
        for turn, peer in enumerate(interleaved(list(drains), sitting.num_rounds)):
            sitting.say(f"round {turn // len(drains) + 1} of {sitting.num_rounds}: {peer}")
            values.add(_DRAIN, "time", peer, drains[peer](number) / number)
        _measure_submits(sitting, values)
    result = Result(values.series())
    return Result(result.series, _judge(result), tuple(skipped))


def _program(command: list[str], service: Service) -> Callable[[int], float]:
    environment = environment_with(BROKER_URL=service.broker_url, REDIS_URL=service.redis.url)
    return lambda number: float(run_timed([*command, str(number)], environment).output)


def _measure_submits(sitting: Sitting, values: Values) -> None:
    """Through the API: prepare, insert, commit to the disk, ring; there is no worker that would take its time."""
    number, array = (SMOKE_JOBS, 10) if sitting.is_smoke else (NUM_SUBMITS, ARRAY)
    with contextlib.ExitStack() as stack:
        services = {"SQLite": stack.enter_context(running_service(sitting.folder / "t"))}
        if not sitting.is_smoke:
            with contextlib.suppress(ImportError):  # which was told already
                url = stack.enter_context(postgres_url(sitting.folder / "u"))
                services["Postgres"] = stack.enter_context(running_service(sitting.folder / "v", database_url=url))
        floors = {name: stack.enter_context(bare_commits(service)) for name, service in services.items()}
        for _ in range(sitting.num_rounds):
            for name, service in services.items():
                sitting.say(f"submitting to {name}")
                case = f"{_SUBMIT}, {name}"
                values.add(case, "time", f"dljobs, {name}", _submit(service, number) / number)
                values.add(
                    case, "time", f"dljobs, {name}, {THREADS} threads", _submit(service, number, THREADS) / number
                )
                values.add(case, "time", _BARE, floors[name](number) / number)
                values.add(_ARRAY, "time", f"dljobs, {name}", _submit_array(service, array))


def _submit(service: Service, number: int, num_threads: int = 1) -> float:
    begin = time.monotonic()
    if num_threads == 1:
        for _ in range(number):
            service.submit(Request("lenet"))
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(service.submit, [Request("lenet")] * number))
    return time.monotonic() - begin


def _submit_array(service: Service, number: int) -> float:
    begin = time.monotonic()
    new = prepare_set(Request("lenet"), Variation(array=f"0-{number - 1}"), "benchmark")
    enqueue_set(service.database, service.doorbell, service.settings, new)
    return time.monotonic() - begin


def _judge(result: Result) -> tuple[Verdict, ...]:
    found = {(each.case, each.peer): each.median for each in result.series}
    ours = (_SQLITE, _POSTGRES)
    limits = {
        "seconds for each of many no-op runs": (_DRAIN, MAX_RUN_S),
        f"seconds to submit an array of {ARRAY:,}": (_ARRAY, MAX_ARRAY_S),
    }
    verdicts = [
        Verdict(f"{peer}: {claim}", found[case, peer], limit)
        for claim, (case, limit) in limits.items()
        for peer in ours
        if (case, peer) in found
    ]
    verdicts += [
        Verdict(f"{peer}: seconds for a single submit through the API", median, MAX_SUBMIT_S)
        for (case, peer), median in found.items()
        if case.startswith(_SUBMIT) and peer in ours
    ]
    return tuple(verdicts)


BENCHMARK = Benchmark(
    name="many_jobs",
    title="Many small jobs",
    about=(
        f"**Drain**: {NUM_JOBS} jobs that do nothing wait; from the ring to the end of the last one, divided by their "
        f"number. dljobs has one worker with {NUM_DEVICES} CPU devices and default settings: each job is scheduled, "
        "claimed, leased, started as a process under torchrun's agent, heard, and ended, all of it in SQL. RQ forks a "
        "process a job and keeps its state in Redis; Celery calls a function in the worker's own process and keeps "
        "nothing: neither has torch loaded. The floor forks from a process that has. **Submit**: prepare, insert, "
        f"commit to the disk, ring, one job after another, by one thread or by {THREADS} at a time; its floor inserts "
        "a row of that size into a table without an index and commits it, by the driver alone, on the same disk. An "
        f"array of {ARRAY:,} is one call. No worker runs meanwhile."
    ),
    baselines=(_FLOOR, _CELERY, _BARE),
    num_rounds=5,
    measure=measure,
)
