"""How long the scheduler thinks: plans on large clusters, and whether finished jobs make the next one dearer."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.history import finish_jobs
from benchmarks.result import Result, Values, Verdict
from dljobs.service.database import open_database
from dljobs.service.new_jobs import insert_job
from dljobs.service.planned import make_plan
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.rows import OfferedDevice, OfferingWorker, Policy, RunningJob, Snapshot, WaitingJob
from dljobs.service.schema import upgrade
from dljobs.service.settings import load_settings
from dljobs.service.submission import Request, prepare

SIZES = ((100, 100), (1000, 1000), (10_000, 10_000))  # waiting jobs, devices
SMOKE_SIZES = ((100, 100),)
NODE_SIZE = 8
NUM_ENDED = 32  # jobs that have ended since the plan before: what has changed
MAX_PLAN_S = 0.1
NUM_FINISHED, SMOKE_FINISHED = 100_000, 1000
# Reading 100,000 rows takes seconds; this much is the noise of a plan of some milliseconds.
MAX_HISTORY_RATIO = 1.5
_NOW = 1_000_000.0
_DLJOBS, _FIFO = "dljobs", "FIFO"
_POLICIES = {_DLJOBS: Policy(), _FIFO: Policy(fair_share=False, backfill=False, align_ends=False)}
_EMPTY, _FULL = "no finished jobs", "many finished jobs"


def measure(sitting: Sitting) -> Result:
    """Plans by size, then one plan from rows beside the same with many finished jobs in the database."""
    values = Values()
    sizes = SMOKE_SIZES if sitting.is_smoke else SIZES
    for num_jobs, num_devices in sizes:
        sitting.say(f"{num_jobs} jobs on {num_devices} devices")
        snapshot = make_snapshot(num_jobs, num_devices)
        case = f"{num_jobs:,} jobs, {num_devices:,} devices"
        for peer in interleaved(list(_POLICIES), sitting.num_rounds):
            values.add(case, "plan", peer, _time_plan(snapshot, _POLICIES[peer]))
    _measure_history(sitting, values)
    result = Result(values.series())
    return Result(result.series, _judge(result))


def make_snapshot(num_jobs: int, num_devices: int) -> Snapshot:
    """A full cluster on which `NUM_ENDED` jobs have just ended, and a queue of 40 users with priorities."""
    draw = random.Random(1)
    workers, running, job_id, device_id = [], [], 10**6, 0
    for node in range(1, num_devices // NODE_SIZE + 1):
        devices: list[OfferedDevice] = []
        while len(devices) < NODE_SIZE:
            size = min(draw.choice([1, 1, 1, 2, 4, 8]), NODE_SIZE - len(devices))
            job_id += 1
            running.append(RunningJob(job_id, size, _user(draw), (), _NOW + draw.expovariate(1 / 7200)))
            for _ in range(size):
                device_id += 1
                devices.append(OfferedDevice(device_id, job_id, "cuda NVIDIA H100 80GB HBM3", 85_000_000_000))
        workers.append(OfferingWorker(node, f"node{node}", tuple(devices), f"node{node}"))
    ended = {job.id for job in draw.sample(running, min(NUM_ENDED, len(running) // 2))}
    freed = [
        replace(w, devices=tuple(replace(d, job_id=None) if d.job_id in ended else d for d in w.devices))
        for w in workers
    ]
    waiting = [
        WaitingJob(
            number,
            draw.choices([1, 2, 4, 8], [0.7, 0.1, 0.1, 0.1])[0],
            draw.choice([30, 50, 50, 50, 70]),
            _NOW - draw.random() * 2 * 86400,
            _user(draw),
            duration_s=draw.expovariate(1 / 7200) if draw.random() < 0.8 else None,
        )
        for number in range(1, num_jobs + 1)
    ]
    usage = {f"user{number}": draw.random() * 1e6 for number in range(40)}
    return Snapshot(_NOW, waiting, freed, [job for job in running if job.id not in ended], usage)


def _time_plan(snapshot: Snapshot, policy: Policy) -> float:
    gc.collect()
    begun = time.perf_counter()
    decided = plan(snapshot, policy)
    took_s = time.perf_counter() - begun
    assert decided.placed
    return took_s


def _measure_history(sitting: Sitting, values: Values) -> None:
    number = SMOKE_FINISHED if sitting.is_smoke else NUM_FINISHED
    databases = {}
    for peer in (_EMPTY, _FULL):
        settings = load_settings({"home": sitting.folder / peer.split()[0]}, environ={})
        settings.home.mkdir()
        upgrade(settings)
        databases[peer] = open_database(settings)
        with databases[peer].write() as connection:
            for _ in range(50):
                insert_job(connection, prepare(Request("lenet"), "ada"))
    sitting.say(f"writing {number} finished jobs")
    finish_jobs(databases[_FULL], number)
    for peer in interleaved([_EMPTY, _FULL], sitting.num_rounds):
        with databases[peer].read() as connection:
            begun = time.perf_counter()
            make_plan(connection, lease_s=60.0)
            values.add(f"50 jobs, {number:,} finished", "rows and plan", peer, time.perf_counter() - begun)
    for database in databases.values():
        database.close()


def _judge(result: Result) -> tuple[Verdict, ...]:
    largest = [each for each in result.series if each.quantity == "plan" and each.peer == _DLJOBS][-1]
    verdicts = [Verdict(f"{largest.case}: seconds of a plan", largest.median, MAX_PLAN_S)]
    verdicts += [
        Verdict(f"{each.case}: a plan over one without them", ratio, MAX_HISTORY_RATIO)
        for each in result.series
        if each.peer == _FULL and (ratio := result.ratio(each, _EMPTY)) is not None
    ]
    return tuple(verdicts)


def _user(draw: random.Random) -> str:
    return f"user{draw.randrange(40)}"


BENCHMARK = Benchmark(
    name="scheduler",
    title="One plan of the scheduler",
    about=(
        "The pure function alone, on one core: a cluster of 8-device nodes that was full until 32 jobs ended, and as "
        "many waiting jobs as devices, of 40 users, of three priorities, a fifth of them of unknown length. **FIFO** "
        "is the same code in strict order: it stops at the first job that does not fit, so it is the floor of what "
        "ordering and reading the cluster cost. Reasons and expected starts are not in it: they are computed when "
        "somebody asks. `rows and plan` is everything that `dljobs why` and `dispatch` do before they say or write "
        "something, on SQLite, with 50 jobs in the queue."
    ),
    baselines=(_FIFO, _EMPTY),
    num_rounds=15,
    measure=measure,
    ours=(_DLJOBS, _FULL),
)
