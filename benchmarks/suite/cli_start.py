"""How long a command of dljobs takes, from the shell's view."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import NotInstallable, make_environment
from benchmarks.processes import environment_with, python_script, run_timed
from benchmarks.result import Result, Values, Verdict, median_ratio
from benchmarks.service import Service, running_service
from dljobs.service.submission import Request

NUM_WAITING = 10  # jobs in the queue that `status` shows
MAX_RQ_RATIO = 1.2
_QUANTITY = "wall time"
_PASS, _CELERY, _TORCH = "python -c pass", "bare Celery client", 'python -c "import torch"'
_RQ, _LOGS = "rq info", "dljobs logs 1"
_HELP, _STATUS, _SUBMIT = "dljobs --help", "dljobs status", "dljobs submit lenet --parsable"
# What a user's own script would be: one message to the same Redis. The address holds a password, so it is no argument.
_CELERY_CLIENT = """
import os
from celery import Celery
app = Celery(broker=os.environ["BROKER_URL"])
app.conf.task_ignore_result = True
app.send_task("train", args=["lenet"], queue="benchmark")
"""


def measure(sitting: Sitting) -> Result:
    """Each command against the same database and Redis, every one once a round."""
    with running_service(sitting.folder) as service:
        for _ in range(NUM_WAITING):
            service.submit(Request("lenet"))
        commands, skipped = _commands(service), []
        try:
            rq = str(Path(make_environment(sitting, "rq", ["rq"], borrows=False)).with_name("rq"))
            commands[_RQ] = ([rq, "info"], environment_with(RQ_REDIS_URL=service.redis.url))
        except NotInstallable as error:
            skipped.append(f"RQ was not measured: {error}.")
        if not sitting.is_smoke:
            for command, environment in commands.values():  # files into the cache
                run_timed(command, environment)
        values = Values()
        for number, peer in enumerate(interleaved(list(commands), sitting.num_rounds)):
            if number % len(commands) == 0:
                sitting.say(f"round {number // len(commands) + 1} of {sitting.num_rounds}")
            command, environment = commands[peer]
            values.add("", _QUANTITY, peer, run_timed(command, environment).seconds)
        result = Result(values.series())
        notes = (*_compare(result), *skipped, f"Redis {service.redis_version} on a unix socket.")
        return Result(result.series, _judge(result), notes)


def _commands(service: Service) -> dict[str, tuple[list[str], Mapping[str, str]]]:
    dljobs, python = python_script("dljobs"), [sys.executable]
    client, plain = service.environment, environment_with()
    return {
        _PASS: ([*python, "-c", "pass"], plain),
        _HELP: ([*dljobs, "--help"], client),
        _STATUS: ([*dljobs, "status"], client),
        _SUBMIT: ([*dljobs, "submit", "lenet", "--parsable"], client),
        _LOGS: ([*dljobs, "logs", "1"], client),
        _CELERY: ([*python, "-c", _CELERY_CLIENT], environment_with(BROKER_URL=service.broker_url)),
        _TORCH: ([*python, "-c", "import torch"], plain),
    }


def _compare(result: Result) -> list[str]:
    found = {each.peer: each.values for each in result.series}
    avoided = median_ratio(found[_TORCH], found[_STATUS])
    return [f"A `dljobs status` that imported torch would pay that import besides: {avoided:.1f} times its own time."]


def _judge(result: Result) -> tuple[Verdict, ...]:
    found = {each.peer: each.values for each in result.series}
    if _RQ not in found:
        return ()
    return tuple(
        Verdict(f"{peer} over rq info", median_ratio(found[peer], found[_RQ]), MAX_RQ_RATIO)
        for peer in (_HELP, _STATUS, _SUBMIT, _LOGS)
    )


BENCHMARK = Benchmark(
    name="cli_start",
    title="The command line's start",
    about=(
        "Wall time of a whole process, from before it is started to its end, with the same interpreter. The commands "
        f"of dljobs work on a real embedded service (SQLite, Redis on a unix socket) with {NUM_WAITING} jobs waiting, "
        "and one more with each round; no worker runs, so that no job takes the machine's time. The bare Celery client "
        "is what a user's own script would do at the least: one message to the same Redis, without checking anything "
        "or keeping a record; `rq info` shows the queues of the same Redis, of which none is there. "
        "`submit` validates, inserts, commits, and sends such a message."
    ),
    baselines=(_PASS, _CELERY),
    num_rounds=20,
    measure=measure,
)
