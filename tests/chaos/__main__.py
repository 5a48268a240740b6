"""`python -m tests.chaos --seconds 1200`: chaos for so long, the audit, the figures; exit code 1 if anything is wrong.

The same seed gives the same choices, though not the same race: processes are as fast as they are.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from dljobs.errors import DljobsError
from tests.waiting import wait_until

from .audit import Figures, audit_leftovers, audit_records, measure
from .monkey import Monkey, percentile
from .site import Site, running_site
from .workload import Workload

NUM_UNFINISHED = 8  # jobs that wait or run, at most
CALM_S = 180.0  # the time in which everything has to end once nothing breaks any more


@dataclass(frozen=True)
class Result:
    """What came of it."""

    seed: int
    seconds: float
    wrong: list[str]
    figures: Figures
    monkey: Monkey

    def __str__(self) -> str:
        figures = self.figures
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s: {figures.num_jobs} jobs in {figures.num_runs} runs; "
            f"{figures.lost_steps} steps trained again, of {figures.total_steps}"
        ]
        for kind, num in sorted(self.monkey.num_faults.items()):
            line = f"  {num:4} x {kind}"
            if taken := self.monkey.recoveries_s[kind]:
                line += f": well again after {percentile(taken, 50):.1f} s (p50), {percentile(taken, 95):.1f} s (p95)"
            lines.append(line)
        lines += [f"WRONG: {each}" for each in self.wrong] or ["the audit found nothing wrong"]
        return "\n".join(lines)


def run_chaos(seconds: float, seed: int, *, pause_s: tuple[float, float] = (1.0, 5.0)) -> Result:
    """Let the monkey loose for so long, then let everything come to its end, and audit it."""
    chooser = random.Random(seed)
    with running_site() as site:
        workload = Workload(site, chooser)
        workload.measure_undisturbed()
        monkey = Monkey(site, chooser, pause_s)
        _disturb(site, workload, monkey, seconds)
        monkey.stop()
        _await_ends(workload)
        monkey.look()
        with site.cluster.database.read() as connection:
            figures = measure(connection)
        wrong = audit_records(site, workload.digests)
        _end_workers(site)
        wrong += audit_leftovers(site)
    return Result(seed, seconds, wrong, figures, monkey)


def _disturb(site: Site, workload: Workload, monkey: Monkey, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        with suppress(DljobsError):
            if len(workload.unfinished()) < NUM_UNFINISHED:
                workload.submit()
        workload.cancel_some()
        monkey.act()
        time.sleep(0.1)


def _await_ends(workload: Workload) -> None:
    def have_ended() -> bool:
        workload.cancel_some()
        return not workload.unfinished()

    with suppress(TimeoutError):  # the audit says which are left
        wait_until(have_ended, CALM_S, "the end of all jobs")


def _end_workers(site: Site) -> None:
    for worker in site.cluster.workers.values():
        worker.terminate()
    for worker in site.cluster.workers.values():
        wait_until(lambda worker=worker: worker.exit_code() is not None, 60, "the worker's end")


def main() -> int:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=1200.0, help="how long things break (default: 20 minutes)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all choices; printed")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = run_chaos(options.seconds, options.seed)
    print(result)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
