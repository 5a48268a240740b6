"""Many small jobs: how fast they are submitted, and how fast one worker goes through them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import NotInstallable, make_environment
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
MAX_RUN_S, MAX_SUBMIT_S, MAX_ARRAY_S = 1 / 120, 1 / 1000, 2.0
_DRAIN, _SUBMIT, _ARRAY = "drain, per job", "submit, per job", "an array, in all"
_SQLITE, _POSTGRES = "dljobs, SQLite", "dljobs, Postgres"
_CELERY, _RQ, _FLOOR = "Celery, functions (no process)", "RQ (fork)", "floor: fork with torch"
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
        try:
            python = make_environment(sitting, "rq", ["rq"], borrows=False)
            drains[_RQ] = _program([python, str(_PEERS / "rq_functions.py")], services[_SQLITE])
        except NotInstallable as error:
            skipped.append(f"RQ was not measured: {error}.")
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
    with running_service(sitting.folder / "t") as service:
        number, array = (SMOKE_JOBS, 10) if sitting.is_smoke else (NUM_SUBMITS, ARRAY)
        for _ in range(sitting.num_rounds):
            begin = time.monotonic()
            for _ in range(number):
                service.submit(Request("lenet"))
            values.add(_SUBMIT, "time", _SQLITE, (time.monotonic() - begin) / number)
            begin = time.monotonic()
            new = prepare_set(Request("lenet"), Variation(array=f"0-{array - 1}"), "benchmark")
            enqueue_set(service.database, service.doorbell, service.settings, new)
            values.add(_ARRAY, "time", _SQLITE, time.monotonic() - begin)


def _judge(result: Result) -> tuple[Verdict, ...]:
    found = {(each.case, each.peer): each.median for each in result.series}
    drains = [
        Verdict(f"{peer}: seconds for each of many no-op runs", found[_DRAIN, peer], MAX_RUN_S)
        for peer in (_SQLITE, _POSTGRES)
        if (_DRAIN, peer) in found
    ]
    return (
        *drains,
        Verdict("seconds for a single submit through the API", found[_SUBMIT, _SQLITE], MAX_SUBMIT_S),
        Verdict(f"seconds to submit an array of {ARRAY:,}", found[_ARRAY, _SQLITE], MAX_ARRAY_S),
    )


BENCHMARK = Benchmark(
    name="many_jobs",
    title="Many small jobs",
    about=(
        f"**Drain**: {NUM_JOBS} jobs that do nothing wait; from the ring to the end of the last one, divided by their "
        f"number. dljobs has one worker with {NUM_DEVICES} CPU devices and default settings: each job is scheduled, "
        "claimed, leased, started as a process under torchrun's agent, heard, and ended, all of it in SQL. RQ forks a "
        "process a job and keeps its state in Redis; Celery calls a function in the worker's own process and keeps "
        "nothing: neither has torch loaded. The floor forks from a process that has. **Submit**: prepare, insert, "
        f"commit, ring, one job after another; an array of {ARRAY:,} in one call. No worker runs meanwhile."
    ),
    baselines=(_FLOOR, _CELERY),
    num_rounds=5,
    measure=measure,
)
