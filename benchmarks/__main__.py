"""`python -m benchmarks [NAME…] [--repeat N] [--json FILE] [--smoke] [--long] [--write-results]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console

from dljobs.errors import DljobsError

from .benchmark import Benchmark, BenchmarkError, Sitting
from .machine import Load, OtherWork, describe_machine
from .plots import draw
from .processes import end_all
from .report import Report, merge_markdown, reports_to_json
from .result import Result
from .suite import find_benchmarks

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks; 0 also where an expectation is missed, as a slow machine is no error; 1: one failed."""
    found = find_benchmarks()
    options = _parse(arguments, found)
    chosen = [found[name] for name in dict.fromkeys(options.names or found)]
    # Somebody's own service must not be measured, nor filled with our jobs.
    for variable in [name for name in os.environ if name.startswith("DLJOBS_")]:
        del os.environ[variable]
    for number in ENDING_SIGNALS:
        signal.signal(number, _interrupt)
    console, errors = (Console(stderr=each, width=None if sys.stdout.isatty() else 120) for each in (False, True))
    machine, load = describe_machine(), Load.read()
    console.print(f"{machine}\n{load}", style="bold red" if load.is_loaded else "", highlight=False)
    reports, has_failed = list[Report](), False
    try:
        with _temporary_folder() as folder:
            for benchmark in chosen:
                rounds = options.repeat or (1 if options.smoke else benchmark.num_rounds)
                others = OtherWork()
                try:
                    result = _run(benchmark, rounds, options, folder, errors)
                except (BenchmarkError, DljobsError) as error:  # the others can do without it
                    errors.print(f"{benchmark.name}: {error}", style="red", markup=False, highlight=False)
                    has_failed = True
                    continue
                reports.append(Report(benchmark, result, rounds, machine, load, others.share(), time.time()))
                reports[-1].print(console)
                if options.write_results:
                    _write_results(reports[-1])
    except KeyboardInterrupt as interrupt:
        errors.print("stopped; nothing is left running")
        return 128 + int(interrupt.args[0])
    finally:
        # Nothing, unless a signal came in the instant between a program's start and our taking note of it.
        end_all(psutil.Process().children(recursive=True))
    if options.json:
        document = reports_to_json(reports, machine, load, is_smoke=options.smoke)
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 1 if has_failed else 0


def _write_results(report: Report) -> None:
    """Its table and its plot, at once: a sitting takes long, and may be ended."""
    draw(report.benchmark, report.result)
    RESULTS.write_text(merge_markdown(RESULTS.read_text() if RESULTS.exists() else "", [report]))


def _run(benchmark: Benchmark, num_rounds: int, options: argparse.Namespace, folder: Path, console: Console) -> Result:
    def say(text: str) -> None:
        console.print(f"{benchmark.name}: {text}", style="dim", highlight=False)

    with tempfile.TemporaryDirectory(prefix="sitting-", dir=folder) as ours:
        environments = folder / "environments"
        return benchmark.measure(Sitting(Path(ours), environments, num_rounds, options.smoke, say, options.long))


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Of the whole command. torchrun, inductor and multiprocessing leave folders in the temp folder of whoever starts
    them, and torch does in our own: theirs is in it.
    """
    with tempfile.TemporaryDirectory(prefix="dljobs-bench-") as name:
        folder = Path(name)
        for each in ("environments", "tmp"):
            (folder / each).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        yield folder


def _parse(arguments: Sequence[str], found: dict[str, Benchmark]) -> argparse.Namespace:
    names = "\n".join(f"  {each.name:<14} {each.title}" for each in found.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what users wait for, beside peers and the physical floor.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="which benchmarks to run; all unless given")
    parser.add_argument("--repeat", metavar="N", type=_positive, help="rounds; each benchmark has its own default")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all values there")
    parser.add_argument("--smoke", action="store_true", help="only see that they work: one round, fewer cases")
    parser.add_argument("--long", action="store_true", help="the tutorial's job with all its 25,000 steps")
    parser.add_argument("--write-results", action="store_true", help=f"write the tables to benchmarks/{RESULTS.name}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in found]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(found)}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent}")
    if options.smoke and options.write_results:
        parser.error("--smoke measures nothing worth keeping: it cannot go with --write-results")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Leave through every `finally`: each ends what it started, within a deadline, so a second signal has no say."""
    for each in ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
