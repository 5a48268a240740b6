"""No growth: what a run and a submission cost beside many finished jobs, and beside few."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping

from benchmarks import history
from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from benchmarks.stores import postgres_url
from dljobs.service.submission import Request

FEW, MANY, SMOKE_MANY = 1000, 100_000, 2000
NUM_RUNS, NUM_SUBMITS, SMOKE_TIMES = 100, 100, 4
NUM_DEVICES = 8
MAX_GROWTH = 1.2
_DRAIN, _SUBMIT, _SUBMIT_CPU = "drain, per run", "submit, per job", "submit, CPU of the client"
_FEW, _MANY = f"beside {FEW:,}", f"beside {MANY:,}"
Take = Callable[[], dict[str, float]]  # seconds for each, by what was done


def measure(sitting: Sitting) -> Result:
    """On each database two services with the same default settings, of which one has a long history."""
    values, notes = Values(), list[str]()
    with contextlib.ExitStack() as stack:
        urls: dict[str, dict[str, str]] = {"SQLite": {_FEW: "", _MANY: ""}}
        try:
            if not sitting.is_smoke:
                urls["Postgres"] = {
                    peer: stack.enter_context(postgres_url(sitting.folder / f"p{number}"))
                    for number, peer in enumerate((_FEW, _MANY))
                }
        except ImportError as error:
            notes.append(f"Postgres was left out: {error}")
        for name, of_peers in urls.items():
            _measure_database(sitting, name, of_peers, values)
    result = Result(values.series())
    verdicts = tuple(
        Verdict(f"{each.case}, {each.quantity}: {_MANY} finished jobs over {_FEW}", ratio, MAX_GROWTH)
        for each in result.series
        if each.peer == _MANY and (ratio := result.ratio(each, _FEW)) is not None
    )
    return Result(result.series, verdicts, tuple(notes))


def _measure_database(sitting: Sitting, name: str, urls: dict[str, str], values: Values) -> None:
    times = SMOKE_TIMES if sitting.is_smoke else NUM_RUNS
    with contextlib.ExitStack() as stack:
        services = {}
        for peer, url in urls.items():
            number = FEW if peer == _FEW else SMOKE_MANY if sitting.is_smoke else MANY
            home = sitting.folder / f"{name}-{number}"
            with running_service(home, database_url=url) as empty:
                sitting.say(f"{name}: writing {number:,} finished jobs")
                history.finish_jobs(empty.database, number)
            # A smoke test leaves the drain to `many_jobs`.
            num_devices = 0 if sitting.is_smoke else NUM_DEVICES
            services[peer] = stack.enter_context(running_service(home, cpu_devices=num_devices, database_url=url))
        drains = {peer: functools.partial(_drain, service, times) for peer, service in services.items()}
        if not sitting.is_smoke:
            _measure_all(sitting, values, name, drains)
    with contextlib.ExitStack() as stack:
        submits = {}
        for peer, service in services.items():
            quiet = stack.enter_context(running_service(service.settings.home, database_url=urls[peer]))
            submits[peer] = functools.partial(_submit, quiet, times)
        _measure_all(sitting, values, name, submits)


def _measure_all(sitting: Sitting, values: Values, name: str, peers: Mapping[str, Take]) -> None:
    sitting.say(f"{name}: measuring")
    for take in peers.values() if not sitting.is_smoke else ():
        take()  # to get warm
    for peer in interleaved(list(peers), sitting.num_rounds):
        for quantity, seconds in peers[peer]().items():
            values.add(name, quantity, peer, seconds)


def _drain(service: Service, times: int) -> dict[str, float]:
    return {_DRAIN: service.drain(times) / times}


def _submit(service: Service, times: int) -> dict[str, float]:
    begin, begin_cpu = time.monotonic(), time.process_time()
    for _ in range(times):
        service.submit(Request("lenet"))
    return {_SUBMIT: (time.monotonic() - begin) / times, _SUBMIT_CPU: (time.process_time() - begin_cpu) / times}


BENCHMARK = Benchmark(
    name="growth",
    title="No growth with history",
    about=(
        f"The same work beside {FEW:,} and beside {MANY:,} finished jobs, each with a run, a lease, events, metrics, "
        "scores and lines of log, in interleaved rounds on two services that differ in nothing else. **Drain**: "
        f"{NUM_RUNS} no-op jobs that wait, from the ring to the end of the last one, divided by their number, on one "
        f"worker with {NUM_DEVICES} CPU devices, as in `many_jobs`. **Submit**: {NUM_SUBMITS} single ones through the "
        "API, one after another, while no worker runs. The history is written in bulk, by INSERT … SELECT."
    ),
    baselines=(_FEW,),
    num_rounds=9,
    measure=measure,
    ours=("beside",),
)
