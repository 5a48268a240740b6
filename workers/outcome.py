"""How a run ended, from the evidence its ranks left: events, exit codes and what the supervisor had asked for.

The first rank to fail is the cause; the others usually die of its death. What follows for the job is decided by
`service/ends.py`.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dljobs.service.failures import FailureClass
from dljobs.service.runs import Outcome

from .channel import Event
from .launcher import RankExit

_ASKED_FOR = {
    FailureClass.CANCELLED: "cancelled",
    FailureClass.PRUNED: "pruned",
    FailureClass.PREEMPTED: "the worker is draining",
    FailureClass.TIME_LIMIT: "the time limit was reached",
}


@dataclass
class Evidence:
    """What was seen of a run."""

    exits: Sequence[RankExit] = ()
    errors: list[Event] = field(default_factory=list)
    finished: Event | None = None
    stopped: Event | None = None
    stop: FailureClass | None = None  # what the supervisor asked for
    stopped_because: str = ""  # where the class does not say it all
    storage: str | None = None  # why an artifact that had to be stored was not
    launch_error: str | None = None  # the launcher itself failed
    out_of_memory_kills: int = 0  # by the kernel, on this node, while the run was on
    hung: str = ""  # why the ranks were taken to hang, and killed
    stacks: dict[int, str] = field(default_factory=dict)  # rank -> where it stood then

    def to_json(self) -> dict[str, Any]:
        """What another node of the run saw, for `absorb` on its head."""
        return {
            "exits": [dataclasses.asdict(end) for end in self.exits],
            "errors": self.errors,
            "launch_error": self.launch_error,
            "out_of_memory_kills": self.out_of_memory_kills,
            "stacks": {str(rank): place for rank, place in self.stacks.items()},
        }

    def absorb(self, seen: dict[str, Any]) -> None:
        """Add what was seen on another node of the run."""
        self.exits = [*self.exits, *(RankExit(**end) for end in seen.get("exits", ()))]
        self.errors += seen.get("errors", ())
        self.launch_error = self.launch_error or seen.get("launch_error")
        self.out_of_memory_kills += seen.get("out_of_memory_kills", 0)
        self.stacks |= {int(rank): place for rank, place in seen.get("stacks", {}).items()}

    def describe(self) -> dict[str, Any]:
        """What the run's row keeps of it."""
        told = ("rank", "exception", "message", "secondary")
        found = {
            "exits": [{"rank": end.rank, "how": _describe_exit(end)} for end in self.exits],
            "errors": [{key: error.get(key) for key in told} for error in self.errors],
            "out_of_memory_kills": self.out_of_memory_kills,
            "hung": self.hung,
            "stacks": {str(rank): place for rank, place in sorted(self.stacks.items())},
            "launch_error": self.launch_error,
            "storage": self.storage,
        }
        return {name: value for name, value in found.items() if value}


def classify(evidence: Evidence) -> Outcome:
    """The outcome that the evidence shows."""
    outcome = _judge(evidence)
    return outcome if outcome.failure is None else dataclasses.replace(outcome, evidence=evidence.describe())


def _judge(evidence: Evidence) -> Outcome:
    if evidence.storage is not None:
        return Outcome(FailureClass.STORAGE, evidence.storage)
    if evidence.finished is not None and not evidence.errors and evidence.launch_error is None:
        result = evidence.finished.get("result") or {}
        return Outcome(None, "finished", result=result)
    if evidence.stop is not None:
        return Outcome(evidence.stop, _describe_stop(evidence))
    if evidence.hung:
        places = ", ".join(f"rank {rank} in {place}" for rank, place in sorted(evidence.stacks.items()))
        return Outcome(FailureClass.HUNG, evidence.hung + (f"; {places}" if places else ""))
    killed = next((end for end in evidence.exits if _was_hit(end)), None)
    if killed is not None:
        return _from_exit(killed, evidence)
    primary = [error for error in evidence.errors if not error.get("secondary")]
    if primary:
        return _from_error(min(primary, key=lambda error: float(error["at"])), evidence)
    if evidence.launch_error is not None:
        return Outcome(FailureClass.KILLED, f"the ranks' launcher failed: {evidence.launch_error}")
    # All errors are echoes: the cause is a rank that went without a word.
    told = {error["rank"] for error in evidence.errors}
    silent = next((end for end in evidence.exits if not end.was_killed and end.rank not in told), None)
    if silent is not None:
        return _from_exit(silent, evidence)
    if evidence.errors:
        return _from_error(min(evidence.errors, key=lambda error: float(error["at"])), evidence)
    return Outcome(FailureClass.KILLED, "all ranks ended without a result and without a reason")


def count_out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def _describe_stop(evidence: Evidence) -> str:
    assert evidence.stop is not None
    what = evidence.stopped_because or _ASKED_FOR.get(evidence.stop, str(evidence.stop))
    if evidence.stopped is not None:
        return f"{what}: stopped after step {evidence.stopped.get('step')}"
    if not evidence.exits and evidence.launch_error is None:
        return f"{what} before the ranks were started"
    return f"{what}: the ranks did not stop in time and were killed"


def _from_error(error: Event, evidence: Evidence) -> Outcome:
    try:
        failure = FailureClass(str(error.get("failure_class")))
    except ValueError:
        failure = FailureClass.USER
    if failure is FailureClass.KILLED and evidence.out_of_memory_kills:  # a child of the rank's
        failure = FailureClass.OOM
    keys = ("rank", "exception", "message", "file", "line", "traceback", "hint")
    details: dict[str, Any] = {key: error.get(key) for key in keys}
    message = str(details["message"] or "").strip().split("\n")[0][:300]
    where = f" ({Path(str(details['file'])).name}:{details['line']})" if details["file"] else ""
    what = f"raised {details['exception']}: {message}"
    if memory := error.get("memory"):
        what = f"ran out of {memory} memory: {message}"
    return Outcome(failure, f"rank {details['rank']} {what}{where}", error=details)


def _describe_exit(end: RankExit) -> str:
    if end.was_killed:
        return "ended by dljobs"
    return f"exit code {end.exitcode}" if end.exitcode >= 0 else _signal_of(end)


def _signal_of(end: RankExit) -> str:
    try:
        return signal.Signals(-end.exitcode).name
    except ValueError:  # a real-time signal
        return f"signal {-end.exitcode}"


def _was_hit(end: RankExit) -> bool:
    """Whether a signal from outside ended the rank: the errors of the others are its echo.

    The agent sends SIGTERM to what is left of a run, and communication libraries abort when they miss a peer.
    """
    return end.exitcode < 0 and not end.was_killed and end.exitcode not in (-signal.SIGTERM, -signal.SIGABRT)


def _from_exit(end: RankExit, evidence: Evidence) -> Outcome:
    """No rank could tell what happened: only how the operating system ended this one is known."""
    if end.exitcode >= 0:
        return Outcome(FailureClass.USER, f"rank {end.rank} left with exit code {end.exitcode} and no exception")
    if end.exitcode == -signal.SIGKILL and evidence.out_of_memory_kills:
        return Outcome(FailureClass.OOM, f"rank {end.rank} was killed by the kernel: the host ran out of memory")
    return Outcome(FailureClass.KILLED, f"rank {end.rank} was killed by {_signal_of(end)}")
