"""The store of records: pages of jobs, and a very long run, however much history there is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import history
from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.environments import make_environment, optional
from benchmarks.processes import answering, environment_with
from benchmarks.result import Result, Values, Verdict
from benchmarks.stores import connect_bare, postgres_url
from dljobs.service import curves, log_report, reports, schema
from dljobs.service.database import Database
from dljobs.service.settings import load_settings
from dljobs.service.states import JobState

SIZES, SMOKE_SIZES = (1000, 10_000, 100_000), (100,)
NUM_POINTS, SMOKE_POINTS = 1_000_000, 5000
NUM_LINES = 25
MAX_PAGE_S = 0.02
# Once a page takes a peer so long, it is not asked for the same at the next size.
TOO_SLOW_S = 1.5
_NEWEST, _FILTERED, _BEST, _CURVE, _LOG = "newest 25", "filtered 25", "best 25", "thinned curve", "last 25 lines"
_PAGES = (_NEWEST, _FILTERED, _BEST)
_DLJOBS, _MLFLOW, _FLOOR = "dljobs", "MLflow", "floor: the driver"
Asked = dict[tuple[str, str], Callable[[], float]]  # by what is asked, and by whom


@dataclass(frozen=True)
class Records:
    """A database with a history, and another connection to it by its bare driver."""

    database: Database
    bare: Any


def measure(sitting: Sitting) -> Result:
    """On each database at each number of jobs every page, then what is read of a very long run."""
    values, notes = Values(), list[str]()
    with contextlib.ExitStack() as stack:
        databases = stack.enter_context(_databases(sitting, notes))
        ask = _mlflow(sitting, stack, notes)
        long_runs = _write_long_runs(sitting, databases, ask)
        num_jobs, too_slow = 0, set[str]()
        for size in SMOKE_SIZES if sitting.is_smoke else SIZES:
            sitting.say(f"filling up to {size:,} jobs")
            for each in databases.values():
                history.finish_jobs(each.database, size - num_jobs)
            if ask is not None:
                ask(f"fill {size}")
            num_jobs = size
            for name, records in databases.items():
                asked = _pages_of(records)
                if ask is not None and name == "SQLite":
                    asked |= {(what, _MLFLOW): _asking(ask, what) for what in _PAGES if what not in too_slow}
                case = f"{size:,} jobs, {name}"
                _measure_all(sitting, values, case, asked)
            too_slow |= _too_slow(values, size, too_slow, notes)
        for name, records in databases.items():
            asked = _reads_of(records, long_runs[name])
            if ask is not None and name == "SQLite":
                asked[_CURVE, _MLFLOW] = _asking(ask, _CURVE)
            _measure_all(sitting, values, f"a run of {_num_points(sitting):,} points, {name}", asked)
    result = Result(values.series())
    return Result(result.series, _judge(result), tuple(notes))


@contextlib.contextmanager
def _databases(sitting: Sitting, notes: list[str]) -> Iterator[dict[str, Records]]:
    with contextlib.ExitStack() as stack:
        urls = {"SQLite": ""}
        try:
            urls["Postgres"] = stack.enter_context(postgres_url(sitting.folder / "p"))
        except ImportError as error:
            notes.append(f"Postgres was left out: {error}")
        found = {}
        for name, url in urls.items():
            settings = load_settings({"home": sitting.folder / name, "database_url": url}, environ={})
            settings.home.mkdir()
            schema.upgrade(settings)
            database = schema.open_checked(settings)
            stack.callback(database.close)
            found[name] = Records(database, stack.enter_context(contextlib.closing(connect_bare(database))))
        yield found


def _mlflow(sitting: Sitting, stack: contextlib.ExitStack, notes: list[str]) -> Callable[[str], str] | None:
    found: list[Callable[[str], str]] = []
    with optional(_MLFLOW, notes):
        python = make_environment(sitting, "mlflow", ["mlflow"])
        folder = sitting.folder / "mlflow"
        folder.mkdir()
        environment = environment_with(PYTHONWARNINGS="ignore", MLFLOW_DISABLE_TELEMETRY="true")
        command = [python, "-m", "benchmarks.peers.mlflow_records", str(folder)]
        ask = stack.enter_context(answering(command, environment, sitting.folder))
        notes.append(f"MLflow {ask('version')}, on SQLite, asked in a process of its own through its Python API.")
        found.append(ask)
    return found[0] if found else None


def _num_points(sitting: Sitting) -> int:
    return SMOKE_POINTS if sitting.is_smoke else NUM_POINTS


def _write_long_runs(
    sitting: Sitting, databases: dict[str, Records], ask: Callable[[str], str] | None
) -> dict[str, int]:
    """The oldest job of all is the long one: whoever reads from the end of a table to find it reads everything."""
    number = _num_points(sitting)
    sitting.say(f"writing a run of {number:,} points")
    if ask is not None:
        ask(f"points {number}")
    return {name: history.write_long_run(each.database, number) for name, each in databases.items()}


def _pages_of(records: Records) -> Asked:
    database, newest = records.database, "SELECT * FROM jobs ORDER BY id DESC LIMIT 25"
    failed = {"user": "user3", "states": (JobState.FAILED,)}
    return {
        (_NEWEST, _DLJOBS): _timed(lambda: reports.list_newest(database)),
        (_FILTERED, _DLJOBS): _timed(lambda: reports.list_newest(database, **failed)),
        (_BEST, _DLJOBS): _timed(lambda: reports.list_best(database, "accuracy")),
        **{(what, _FLOOR): _bare(records.bare, newest) for what in _PAGES},
    }


def _reads_of(records: Records, job_id: int) -> Asked:
    database = records.database

    def read_log() -> object:
        return log_report.list_lines(database, job_id, tail=NUM_LINES)

    return {
        (_CURVE, _DLJOBS): _timed(lambda: curves.load_curves(database, [job_id])),
        (_CURVE, _FLOOR): _bare(records.bare, f"SELECT * FROM metrics ORDER BY id LIMIT {curves.MAX_POINTS}"),
        (_LOG, _DLJOBS): _timed(read_log),
        (_LOG, _FLOOR): _bare(records.bare, f"SELECT * FROM logs ORDER BY id LIMIT {NUM_LINES}"),
    }


def _timed(action: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        found = action()
        seconds = time.perf_counter() - begin
        assert found
        return seconds

    return run


def _bare(connection: Any, query: str) -> Callable[[], float]:
    """As many rows by their primary key, without SQLAlchemy: what no reader can be faster than."""
    return _timed(lambda: connection.execute(query).fetchall())


def _asking(ask: Callable[[str], str], what: str) -> Callable[[], float]:
    return lambda: float(ask(what))


def _measure_all(sitting: Sitting, values: Values, case: str, asked: Asked) -> None:
    sitting.say(case)
    for take in asked.values() if not sitting.is_smoke else ():
        take()  # to get warm
    for what, peer in interleaved(list(asked), sitting.num_rounds):
        values.add(case, what, peer, asked[what, peer]())


def _too_slow(values: Values, size: int, before: set[str], notes: list[str]) -> set[str]:
    slow = {
        each.quantity: each.median
        for each in values.series()
        if each.peer == _MLFLOW and each.case.startswith(f"{size:,} ") and each.median > TOO_SLOW_S
    }
    notes += [
        f"MLflow was not asked for the {what} of more than {size:,} runs, as here it takes {seconds:.1f} s."
        for what, seconds in slow.items()
        if size != SIZES[-1]
    ]
    return before | set(slow)


def _judge(result: Result) -> tuple[Verdict, ...]:
    """Each page on each database at the number of jobs where it takes longest."""
    slowest: dict[str, float] = {}
    for each in result.series:
        if each.peer == _DLJOBS and each.quantity in _PAGES:
            name = f"{each.case.rpartition(', ')[2]}: seconds for the {each.quantity}, at any number of jobs"
            slowest[name] = max(each.median, slowest.get(name, 0.0))
    return tuple(Verdict(name, seconds, MAX_PAGE_S) for name, seconds in slowest.items())


BENCHMARK = Benchmark(
    name="records",
    title="The store of records",
    about=(
        "Through the API, in a process that is connected: the newest 25 jobs, the newest 25 that failed of one of "
        f"{history.NUM_USERS} users, and the best 25 by a metric of their results, each as the objects that `--json` "
        f"prints, with {', '.join(f'{size:,}' for size in SIZES)} finished jobs in the database, each with a run, a "
        f"lease, events, metrics and lines of log. Then the oldest run of all, with {NUM_POINTS:,} points and "
        f"{history.LONG_RUN_LINES:,} lines: its curve, thinned for a plot, and its last {NUM_LINES} lines. Everything "
        "is written in bulk, by INSERT … SELECT. **MLflow**: `search_runs` for the same pages, and for the curve the "
        "sampled history that its own plots are drawn from; its SQLite is filled in bulk, too, as its API takes "
        "minutes for 10,000 runs; it keeps no log. **Floor**: as many rows by their primary key with the bare driver "
        "(sqlite3, psycopg), as tuples."
    ),
    baselines=(_FLOOR, _MLFLOW),
    num_rounds=15,
    measure=measure,
)
