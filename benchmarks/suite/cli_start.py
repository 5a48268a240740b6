"""How long a command of dljobs takes, from the shell's view, however much is in the database."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import NotInstallable, make_environment
from benchmarks.history import finish_jobs, write_long_run
from benchmarks.processes import environment_with, python_script, run_timed
from benchmarks.result import Result, Values, Verdict, median_ratio
from benchmarks.service import Service, running_service
from dljobs.service.submission import Request

NUM_WAITING = 10  # jobs in the queue that `status` shows
SIZES = {"10 finished jobs": (10, 1000), "100,000 finished, 1,000,000 points": (100_000, 1_000_000)}
SMOKE_SIZES = {"10 finished jobs": (10, 100)}
MAX_RQ_RATIO = 1.2
_WALL, _CPU = "wall time", "CPU time"
_PASS, _CELERY, _TORCH = "python -c pass", "bare Celery client", 'python -c "import torch"'
_RQ = "rq info"
_HELP, _STATUS, _SUBMIT = "dljobs --help", "dljobs status", "dljobs submit lenet --parsable"
_LOGS = "dljobs logs ID -n 50"
_COMPLETE = "completion of dljobs submit le"
_OURS = (_HELP, _STATUS, _SUBMIT, _LOGS, _COMPLETE)
# What the scripts of `dljobs completion bash` set.
_TYPED = {"_DLJOBS_COMPLETE": "bash_complete", "COMP_WORDS": "dljobs submit le", "COMP_CWORD": "2"}
# What a user's own script would be: one message to the same Redis. The address holds a password, so it is no argument.
_CELERY_CLIENT = """
import os
from celery import Celery
app = Celery(broker=os.environ["BROKER_URL"])
app.conf.task_ignore_result = True
app.send_task("train", args=["lenet"], queue="benchmark")
"""

Commands = dict[tuple[str, str], tuple[list[str], Mapping[str, str]]]  # by case and peer


def measure(sitting: Sitting) -> Result:
    """Each command against a database with few and one with many rows, every one once a round."""
    with contextlib.ExitStack() as stack:
        commands: Commands = {}
        rq, skipped = _install_rq(sitting)
        for number, (case, size) in enumerate((SMOKE_SIZES if sitting.is_smoke else SIZES).items()):
            service = stack.enter_context(running_service(sitting.folder / str(number)))
            sitting.say(f"writing {case}")
            peers = _commands(service, _fill(service, *size)) | ({} if number else _plain(service))
            if rq is not None:
                peers[_RQ] = ([rq, "info"], environment_with(RQ_REDIS_URL=service.redis.url))
            commands |= {(case, peer): command for peer, command in peers.items()}
        if not sitting.is_smoke:
            for command, environment in commands.values():  # files into the cache
                run_timed(command, environment)
        values = Values()
        for turn, (case, peer) in enumerate(interleaved(list(commands), sitting.num_rounds)):
            if turn % len(commands) == 0:
                sitting.say(f"round {turn // len(commands) + 1} of {sitting.num_rounds}")
            ended = run_timed(*commands[case, peer])
            values.add(case, _WALL, peer, ended.seconds)
            values.add(case, _CPU, peer, ended.cpu_s)
        result = Result(values.series())
        notes = (*_compare(result), *skipped, f"Redis {service.redis_version} on a unix socket.")
        return Result(result.series, _judge(result), notes)


def _install_rq(sitting: Sitting) -> tuple[str | None, list[str]]:
    try:
        return str(Path(make_environment(sitting, "rq", ["rq"], borrows=False)).with_name("rq")), []
    except NotInstallable as error:
        return None, [f"RQ was not measured: {error}."]


def _fill(service: Service, num_finished: int, num_points: int) -> int:
    """Jobs that wait, others that have ended, and one with a long run; returns its id."""
    finish_jobs(service.database, num_finished)
    job_id = write_long_run(service.database, num_points, num_lines=num_points // 10)
    for _ in range(NUM_WAITING):
        service.submit(Request("lenet"))
    return job_id


def _commands(service: Service, job_id: int) -> dict[str, tuple[list[str], Mapping[str, str]]]:
    dljobs, client = python_script("dljobs"), service.environment
    return {
        _HELP: ([*dljobs, "--help"], client),
        _STATUS: ([*dljobs, "status"], client),
        _SUBMIT: ([*dljobs, "submit", "lenet", "--parsable"], client),
        _LOGS: ([*dljobs, "logs", str(job_id), "-n", "50"], client),
        _COMPLETE: (dljobs, {**client, **_TYPED}),
    }


def _plain(service: Service) -> dict[str, tuple[list[str], Mapping[str, str]]]:
    python, plain = [sys.executable], environment_with()
    return {
        _PASS: ([*python, "-c", "pass"], plain),
        _CELERY: ([*python, "-c", _CELERY_CLIENT], environment_with(BROKER_URL=service.broker_url)),
        _TORCH: ([*python, "-c", "import torch"], plain),
    }


def _compare(result: Result) -> list[str]:
    case = next(iter(SIZES))
    torch, status = (result.find(case, _WALL, peer) for peer in (_TORCH, _STATUS))
    if torch is None or status is None:
        return []
    avoided = median_ratio(torch.values, status.values)
    return [f"A `dljobs status` that imported torch would pay that import besides: {avoided:.1f} times its own time."]


def _judge(result: Result) -> tuple[Verdict, ...]:
    ours = [each for each in result.series if each.quantity == _WALL and each.peer in _OURS]
    return tuple(
        Verdict(f"{each.case}: {each.peer} over rq info", ratio, MAX_RQ_RATIO)
        for each in ours
        if (ratio := result.ratio(each, _RQ)) is not None
    )


BENCHMARK = Benchmark(
    name="cli_start",
    title="The command line's start",
    about=(
        "Wall time of a whole process, from before it is started to its end, and the CPU time that it took, with the "
        "same interpreter. The commands of dljobs work on a real embedded service (SQLite, Redis on a unix socket) "
        f"with {NUM_WAITING} jobs waiting, and one more with each round; no worker runs, so that no job takes the "
        "machine's time. The second database holds 100,000 finished jobs besides, and a run with 1,000,000 points of a "
        "metric and 100,000 lines of log, of which `logs` prints the last 50. The bare Celery client is what a user's "
        "own script would do at the least: one message to the same Redis, without checking anything or keeping a "
        "record; `rq info` shows the queues of the same Redis, of which none is there. `submit` validates, inserts, "
        "commits, and sends such a message; the completion is what a shell calls when the Tab key is pressed behind "
        "`dljobs submit le`."
    ),
    baselines=(_PASS, _RQ),
    num_rounds=20,
    measure=measure,
)
