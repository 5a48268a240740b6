"""Thresholds: `loss<1e-3` or `test.accuracy>=0.97`, a condition on one metric that a run meets or does not.

It owns their syntax. The same words stop a run (`--until`) and say what a model of the zoo reaches. Standard library
only: clients check them without torch.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dljobs.errors import UnknownName, UsageError

FORMS = "write loss<1e-3 (the training loss, averaged over 20 batches) or, of a test metric, test.accuracy>0.98"
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SYNTAX = re.compile(r"\s*(?:(train|test)\.)?([A-Za-z]\w*)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Threshold:
    """A bound on one metric. Of the training there is only the loss; every result of an evaluation has its name."""

    is_test: bool
    metric: str
    sign: str
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether a value of the metric is on the right side; a NaN never is."""
        return SIGNS[self.sign](value, self.bound)

    def describe(self, value: float) -> str:
        """`loss 0.00098 < 0.001`."""
        return f"{'test ' if self.is_test else ''}{self.metric} {value:.4g} {self.sign} {self.bound:g}"


def parse_threshold(text: str, test_metrics: Collection[str]) -> Threshold:
    """Read a threshold.

    Args:
        test_metrics: the names that an evaluation of this task has.

    Raises:
        UsageError: it is none, or its metric is not known; the message holds the valid forms.
    """
    match = SYNTAX.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no condition on a metric", FORMS)
    split, metric, sign, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise UsageError(f"{text!r} is no condition on a metric: {number!r} is no number", FORMS)
    if split == "test" and metric not in test_metrics:
        raise UnknownName("test metric", metric, test_metrics, FORMS)
    if split != "test" and metric != "loss":
        nearest = f"did you mean test.{metric}? " if metric in test_metrics else ""
        raise UsageError(f"{nearest}{metric!r} is not recorded in training, only its loss is", FORMS)
    return Threshold(split == "test", metric, sign, bound)
