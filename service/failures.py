"""The classes of failure, and what each decides: who is at fault, and whether the job gets another run.

    class                            another run?                                      after
    user, data, time-limit           no: it would end in the same way
    cancelled                        no: somebody asked
    preempted                        always, and for free                              at once
    node-lost                        for free, `MAX_LOST_RUNS` times in a row           at once; then 4 s, 8 s, …
    device, storage                  as node-lost                                      2 s, 4 s, 8 s, …
    oom, killed, hung                within `--max-retries`: who is at fault is open   2 s, 4 s, 8 s, …

Waits double up to five minutes. "In a row": a run that stored a checkpoint has got somewhere, and the count begins anew
with it. Each run gives its class, the evidence and what was decided in its row: `dljobs show` prints them.

It owns the policy only: `workers/outcome.py` and `sweep.py` gather the evidence where a run ends, and `runs.py` acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dljobs.errors import ExitCode


class FailureClass(StrEnum):
    """Why a run ended without a result."""

    USER = "user"  # the model, the data pipeline or the options raised
    DATA = "data"  # the dataset, or the weights that the job begins with, cannot be had
    OOM = "oom"  # host or CUDA memory ran out
    KILLED = "killed"  # a rank died of a signal that nobody here sent
    DEVICE = "device"  # the device failed
    STORAGE = "storage"  # no room for an artifact
    NODE_LOST = "node-lost"  # the worker or its node went silent
    PREEMPTED = "preempted"  # a drain or a more urgent job took the devices
    HUNG = "hung"  # no step for too long
    TIME_LIMIT = "time-limit"  # the job's own limit
    CANCELLED = "cancelled"  # somebody asked
    PRUNED = "pruned"  # successive halving stopped a trial that fell behind the others of its set


# A fault of the infrastructure requeues the job for free, but a job that loses worker after worker and never gets
# anywhere is itself the fault.
MAX_LOST_RUNS = 5
FIRST_BACKOFF_S = 2.0
LONGEST_BACKOFF_S = 300.0

LOST = frozenset({FailureClass.NODE_LOST, FailureClass.DEVICE, FailureClass.STORAGE})  # for free, but not for ever
WITHIN_RETRIES = frozenset({FailureClass.OOM, FailureClass.KILLED, FailureClass.HUNG})
_INFRASTRUCTURE = frozenset(
    {FailureClass.NODE_LOST, FailureClass.HUNG, FailureClass.STORAGE, FailureClass.DEVICE, FailureClass.KILLED}
)


@dataclass(frozen=True)
class Verdict:
    """What happens to the job after a run that failed."""

    requeue: bool
    delay_s: float = 0.0
    because: str = ""


def decide(
    failure: FailureClass, *, num_retries: int, max_retries: int, num_lost: int, was_refused: bool = False
) -> Verdict:
    """Whether a job whose run just failed gets another one.

    Args:
        num_retries: runs that already used up one of the job's `max_retries`.
        num_lost: runs that were already lost to the infrastructure, one after the other, without a new checkpoint.
        was_refused: a check of its devices kept it from starting; they take no other run until they are well.
    """
    if was_refused or failure is FailureClass.PREEMPTED:
        return Verdict(requeue=True)
    if failure in LOST:
        if num_lost + 1 >= MAX_LOST_RUNS:
            return Verdict(requeue=False, because=f"{num_lost + 1} runs in a row were lost")
        is_at_once = failure is FailureClass.NODE_LOST and not num_lost
        return Verdict(requeue=True, delay_s=0.0 if is_at_once else _backoff_s(num_lost))
    if failure in WITHIN_RETRIES and num_retries < max_retries:
        return Verdict(requeue=True, delay_s=_backoff_s(num_retries))
    if failure in WITHIN_RETRIES and max_retries:
        return Verdict(requeue=False, because=f"all {max_retries} retries are used up")
    return Verdict(requeue=False)


def exit_code(failure: FailureClass | None) -> ExitCode:
    """What a client that waited for the failed job returns."""
    if failure is FailureClass.TIME_LIMIT:
        return ExitCode.TIME_LIMIT
    if failure in (FailureClass.CANCELLED, FailureClass.PRUNED):
        return ExitCode.CANCELLED
    return ExitCode.INFRASTRUCTURE_FAILED if failure in _INFRASTRUCTURE else ExitCode.JOB_FAILED


def _backoff_s(num_before: int) -> float:
    return float(min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(num_before, 32)))
