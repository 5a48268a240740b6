"""Successive halving: which trials of a set fall behind and are stopped early. A pure function of what was measured.

The asynchronous form of Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2018 (arXiv:1810.05934,
ASHA): trials are compared at the same epochs, the rungs 1, eta, eta², …, and of those that came to a rung the best
1/eta go on. Nobody waits for the others at a rung, as a queue cannot keep devices for that: a trial trains on until as
many were measured there as one survives of, and is judged again by each that comes later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from dljobs.errors import UnknownName, UsageError

DEFAULT_ETA = 3
MAX_ETA = 100

_SYNTAX = re.compile(r"(?:test\.)?([A-Za-z]\w*):(\w+)(?::(\d+))?")
_SHARES = {2: "half", 3: "third", 4: "quarter"}


@dataclass(frozen=True)
class Rule:
    """What trials are compared by: a metric of the test data, and the number of them that one survives of."""

    metric: str
    goal: Literal["max", "min"]
    eta: int = DEFAULT_ETA

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which a trial of so many epochs is judged; after the last one nothing would be saved."""
        found, epoch = [], 1
        while epoch < epochs:
            found.append(epoch)
            epoch *= self.eta
        return found

    @property
    def share(self) -> str:
        """`third`: of those at a rung, how many go on."""
        return _SHARES.get(self.eta, f"1/{self.eta}")

    def __str__(self) -> str:
        return f"{self.metric}:{self.goal}:{self.eta}"

    def to_json(self) -> str:
        """The rule as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """The rule that `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Trial:
    """A job of the set, and what it reached at each rung it came to; a value that is None was not a number."""

    job_id: int
    values: Mapping[int, float | None]
    may_be_pruned: bool = True  # it has not ended


def parse_rule(text: str, test_metrics: Collection[str]) -> Rule:
    """`METRIC:max`, `METRIC:min`, or either with `:ETA`.

    Args:
        test_metrics: the names that an evaluation of this task has.

    Raises:
        UsageError: it is none of these.
    """
    hint = f"such as --halving {next(iter(test_metrics), 'accuracy')}:max, or with :4 to keep a quarter"
    found = _SYNTAX.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--halving: {text[:40]!r} is no METRIC:max or METRIC:min", hint)
    metric, goal, eta = found[1], found[2], int(found[3] or DEFAULT_ETA)
    if metric not in test_metrics:
        raise UnknownName("test metric", metric, test_metrics, hint)
    if goal not in ("max", "min"):
        raise UnknownName("goal", goal, ("max", "min"), hint)
    if not 2 <= eta <= MAX_ETA:
        nearest = min(max(eta, 2), MAX_ETA)
        raise UsageError(f"--halving: of {eta} trials one cannot be kept; it is 2 to {MAX_ETA}", f"nearest: {nearest}")
    return Rule(metric, "max" if goal == "max" else "min", eta)


def prune(rule: Rule, trials: Sequence[Trial]) -> dict[int, str]:
    """The trials that are to be stopped, and why; whatever the order of `trials`.

    Each is judged at the highest rung that it and at least eta trials in all have come to. The best floor(n / eta) of
    the n there go on, and whoever is as good as the last of these.
    """
    needed = {rung: _needed(rule, at_rung) for rung, at_rung in _by_rung(trials).items() if len(at_rung) >= rule.eta}
    pruned = {}
    for trial in trials:
        rung = max((each for each in trial.values if each in needed), default=None)
        if rung is None or not trial.may_be_pruned:
            continue
        value, bound = trial.values[rung], needed[rung]
        if _rank(rule, value) > _rank(rule, bound):
            at_rung = [_rank(rule, other.values[rung]) for other in trials if rung in other.values]
            place = 1 + sum(rank < _rank(rule, value) for rank in at_rung)
            pruned[trial.job_id] = (
                f"pruned at epoch {rung}: {rule.metric} {_shown(value)} is place {place} of {len(at_rung)},"
                f" the best {rule.share} needed {_shown(bound)}"
            )
    return pruned


def _by_rung(trials: Sequence[Trial]) -> dict[int, list[float | None]]:
    found: dict[int, list[float | None]] = {}
    for trial in trials:
        for rung, value in trial.values.items():
            found.setdefault(rung, []).append(value)
    return found


def _needed(rule: Rule, values: list[float | None]) -> float | None:
    """The worst value that is still among the best."""
    return sorted(values, key=lambda value: _rank(rule, value))[len(values) // rule.eta - 1]


def _rank(rule: Rule, value: float | None) -> float:
    """The smaller, the better; what is no number is worse than all others."""
    if value is None:
        return float("inf")
    return -value if rule.goal == "max" else value


def _shown(value: float | None) -> str:
    return "is not a number" if value is None else f"{value:.4g}"
