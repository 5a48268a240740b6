"""From submit to the end of the first training step."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.benchmark import Benchmark, Sitting, interleaved
from benchmarks.processes import ROOT, answering, environment_with, python_script, run_timed
from benchmarks.result import Result, Values, Verdict
from benchmarks.service import Service, running_service
from dljobs.service.submission import Request

RANKS = (1, 2, 4)
SMOKE_RANKS = (1, 2)
MAX_RATIO = 0.25  # of torchrun's time, in the median, at each number of ranks
# SQLite's clock counts milliseconds, and the two clocks are read one after the other.
MAX_CLOCK_DIFFERENCE_S = 0.005
_FIRST_STEP, _STARTED = "first step", "all ranks started"
_API, _CLI, _TORCHRUN, _FLOOR = "dljobs, Python API", "dljobs submit", "torchrun --standalone", "floor: fork"
_SCRIPT = ROOT / "benchmarks" / "peers" / "one_step.py"


@dataclass
class Contest:
    """The peers, ready to be measured, and what they took so far."""

    service: Service
    ask_floor: Callable[[str], str]
    folder: Path
    values: Values = field(default_factory=Values)
    clock_differences: list[float] = field(default_factory=list)

    def measure(self, peer: str, num_ranks: int, *, is_warm_up: bool = False) -> None:
        """Measure one peer once; a warm-up leaves no trace."""
        values = Values() if is_warm_up else self.values
        case = _ranks(num_ranks)
        if peer == _TORCHRUN:
            values.add(case, _FIRST_STEP, peer, self._torchrun(num_ranks))
        elif peer == _FLOOR:
            values.add(case, _FIRST_STEP, peer, float(self.ask_floor(str(num_ranks))))
        else:
            started_s, first_step_s, difference_s = self._submit(num_ranks, through_shell=peer == _CLI)
            values.add(case, _STARTED, peer, started_s)
            values.add(case, _FIRST_STEP, peer, first_step_s)
            if not is_warm_up:
                self.clock_differences.append(difference_s)

    def _submit(self, num_ranks: int, *, through_shell: bool) -> tuple[float, float, float]:
        """Seconds from submitting to the start of all ranks and to the end of the first step, by the database's clock,
        and by how much the ranks' own clock says another time for the latter.
        """
        begin, begin_by_ours = self.service.read_clock(), time.time()
        if through_shell:
            command = ["submit", "lenet", "--gpus", str(num_ranks), "--epochs", "1", "--parsable"]
            job_id = int(run_timed([*python_script("dljobs"), *command], self.service.environment).output)
        else:
            job_id = self.service.submit(Request("lenet", num_devices=num_ranks, training={"epochs": 1}))
        run = self.service.wait_for_success(job_id)
        first_step_s = run["first_step_at"] - begin
        by_ranks_s = self.service.read_rank_clock(run["id"], step=1) - begin_by_ours
        return run["started_at"] - begin, first_step_s, abs(first_step_s - by_ranks_s)

    def _torchrun(self, num_ranks: int) -> float:
        command = [*python_script("torchrun"), "--standalone", "--nproc-per-node", str(num_ranks), str(_SCRIPT)]
        answer = self.folder / "first-step"
        answer.unlink(missing_ok=True)
        begin = time.monotonic()
        run_timed([*command, str(answer)], environment_with())
        return float(answer.read_text()) - begin


def measure(sitting: Sitting) -> Result:
    """All peers at each number of ranks, every one once a round."""
    peers: Sequence[str] = (_TORCHRUN, _API, _CLI, _FLOOR)
    all_ranks = SMOKE_RANKS if sitting.is_smoke else RANKS
    with contextlib.ExitStack() as stack:
        sitting.say("starting a worker and the floor's process")
        service = stack.enter_context(running_service(sitting.folder / "home", cpu_devices=max(RANKS)))
        floor = [sys.executable, "-m", "benchmarks.peers.fork_floor"]
        ask_floor = stack.enter_context(answering(floor, environment_with(), sitting.folder))
        contest = Contest(service, ask_floor, sitting.folder)
        for num_ranks in all_ranks if not sitting.is_smoke else ():
            sitting.say(f"warm-up, {_ranks(num_ranks)}")
            for peer in peers:
                contest.measure(peer, num_ranks, is_warm_up=True)
        for number, (num_ranks, peer) in enumerate(
            interleaved([(num_ranks, peer) for num_ranks in all_ranks for peer in peers], sitting.num_rounds)
        ):
            turn, place = divmod(number, len(all_ranks) * len(peers))
            if place % len(peers) == 0:
                sitting.say(f"round {turn + 1} of {sitting.num_rounds}, {_ranks(num_ranks)}")
            contest.measure(peer, num_ranks)
        return _judge(contest)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' if number > 1 else ''}"


def _judge(contest: Contest) -> Result:
    result = Result(contest.values.series())
    worst_s = max(contest.clock_differences)
    verdicts = [
        Verdict(f"{each.case}: first step through the API over torchrun's", ratio, MAX_RATIO)
        for each in result.series
        if each.peer == _API and (ratio := result.ratio(each, _TORCHRUN)) is not None
    ]
    clocks = Verdict(
        "seconds between the database's and the ranks' word on the first step", worst_s, MAX_CLOCK_DIFFERENCE_S
    )
    notes = (
        "The moments of dljobs are those of the database's clock (SQLite: whole milliseconds). By rank 0's own clock "
        f"the first step came at most {math.ceil(worst_s * 1000)} ms earlier or later, in any round.",
        f"Redis {contest.service.redis_version} on a unix socket, SQLite, default settings.",
    )
    return Result(result.series, (*verdicts, clocks), notes)


BENCHMARK = Benchmark(
    name="first_step",
    title="From submit to the first training step",
    about=(
        "LeNet on digits (batch of 64 shared out among the ranks, SGD with momentum), CPU; gloo and DDP where there "
        "are several ranks. **dljobs**: from before `prepare` to the end of rank 0's first step, everything included: "
        "validation, two commits, two doorbells, scheduling, claim, launch, loading the data, a check of the model on "
        "one sample, the step, and the ranks' agreement on its loss; the worker is warm (4 CPU devices) and otherwise "
        "idle. `dljobs submit` is the same from the shell, with the start of the command in it. **torchrun**: from "
        "before the command is started to the same moment in a script that builds the same model and takes the step on "
        "a random batch: it has no data to load and reports to nobody. **Floor**: ranks forked from a process that has "
        "torch loaded, process group, model, step, nobody watching. A round measures each once, in turns; one "
        "unmeasured round comes before. `all ranks started` is when the worker notes it: it looks every 20 ms."
    ),
    baselines=(_TORCHRUN, _FLOOR),
    num_rounds=5,
    measure=measure,
)
