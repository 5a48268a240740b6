"""Many small jobs: how fast they are submitted, and how fast one worker goes through them."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import func, insert, select

from benchmarks.benchmark import Benchmark, BenchmarkError, Sitting, interleaved
from benchmarks.foreign import install
from benchmarks.processes import environment_with, run_timed, running
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from benchmarks.stores import postgres_url
from dljobs.service.clock import read_now
from dljobs.service.jobs import NewJob, job_values
from dljobs.service.set_submission import Variation, enqueue_set, prepare_set
from dljobs.service.spec import JobSpec
from dljobs.service.states import ENDED_JOBS, JobState
from dljobs.service.submission import Request
from dljobs.service.tables import jobs

NUM_JOBS, SMOKE_JOBS = 200, 8
NUM_SUBMITS, ARRAY = 200, 10_000
NUM_DEVICES = 8
DRAIN_TIMEOUT_S = 300.0
MAX_RUN_S, MAX_SUBMIT_S, MAX_ARRAY_S = 1 / 120, 1 / 1000, 2.0
_DRAIN, _SUBMIT, _ARRAY = "drain, per job", "submit, per job", "an array, in all"
_SQLITE, _POSTGRES = "dljobs, SQLite", "dljobs, Postgres"
_CELERY, _RQ, _FLOOR = "Celery, functions (no process)", "RQ (fork)", "floor: fork with torch"
_PEERS = Path(__file__).parent.parent / "peers"
# A rank that does nothing: the check of `doctor --nodes`, on one device, where there is nobody to reduce with.
_NOTHING = JobSpec(
    model="nothing", data="nothing", loss="", metric="", goal="min", strategy="single", num_devices=1, kind="all-reduce"
)


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
        drains: dict[str, Callable[[int], float]] = {
            name: lambda number, service=service: _drain(service, number)  # type: ignore[misc]
            for name, service in services.items()
        }
        drains[_FLOOR] = stack.enter_context(_forking(sitting.folder))
        drains[_CELERY] = _program([sys.executable, "-m", "benchmarks.peers.celery_functions"], services[_SQLITE])
        try:
            if sitting.is_smoke:
                raise ImportError("nothing is installed for a smoke test")
            python = install("rq", sitting.folder) / "python"
            drains[_RQ] = _program([str(python), str(_PEERS / "rq_functions.py")], services[_SQLITE])
        except ImportError as error:
            skipped.append(f"RQ was not measured: {error}.")
        for drain in drains.values() if not sitting.is_smoke else ():
            drain(SMOKE_JOBS)
        for turn, peer in enumerate(interleaved(list(drains), sitting.num_rounds)):
            sitting.say(f"round {turn // len(drains) + 1} of {sitting.num_rounds}: {peer}")
            values.add(_DRAIN, "time", peer, drains[peer](number) / number)
        _measure_submits(sitting, values)
    result = Result(values.series())
    return Result(result.series, _judge(result), tuple(skipped))


def _drain(service: Service, number: int) -> float:
    """Seconds from the ring to the end of the last of so many jobs that wait."""
    with service.database.write() as connection:
        row = job_values(NewJob(_NOTHING, user="benchmark", name="nothing"), read_now(connection))
        connection.execute(insert(jobs), [row] * number)
    begin = time.monotonic()
    service.doorbell.ring_schedule()
    left = select(func.count()).where(jobs.c.state.not_in(ENDED_JOBS))
    while True:
        with service.database.read() as connection:
            if connection.execute(left).scalar_one() == 0:
                break
        if time.monotonic() > begin + DRAIN_TIMEOUT_S:
            raise BenchmarkError(f"{number} jobs were not done after {DRAIN_TIMEOUT_S:g} s")
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    with service.database.read() as connection:
        bad = connection.execute(select(jobs.c.reason).where(jobs.c.state != JobState.SUCCEEDED).limit(1)).scalar()
    if bad is not None:
        raise BenchmarkError(f"a job did not succeed: {bad}")
    return seconds


@contextlib.contextmanager
def _forking(folder: Path) -> Iterator[Callable[[int], float]]:
    with tempfile.TemporaryFile(dir=folder) as errors:
        command = [sys.executable, "-m", "benchmarks.peers.many_forks"]
        with running(command, environment_with(), errors, is_piped=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            given, answers = process.stdin, process.stdout
            if not answers.readline():
                raise BenchmarkError("the floor's process did not start")

            def fork(number: int) -> float:
                given.write(f"{number}\n".encode())
                given.flush()
                return float(answers.readline())

            yield fork


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
