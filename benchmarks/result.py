"""Results: the values that were measured, what is computed from them, and their one format in JSON.

It does not know how anything is measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Series:
    """What one peer took for one thing, once a round, in the order of the rounds."""

    case: str  # what was varied, such as "2 ranks"
    quantity: str  # what was measured, such as "first step"
    peer: str
    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """By nearest rank: with fewer than 20 rounds, the worst value; the largest, or of a rate the smallest."""
        return sorted(self.values, reverse=self.unit.endswith("/s"))[math.ceil(0.95 * len(self.values)) - 1]


@dataclass(frozen=True)
class Verdict:
    """An expectation, held against what was measured."""

    claim: str
    value: float
    limit: float
    is_minimum: bool = False

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_minimum else self.value <= self.limit


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    series: tuple[Series, ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, case: str, quantity: str, peer: str) -> Series | None:
        """The series of that name, if there is one."""
        wanted = (case, quantity, peer)
        return next((each for each in self.series if (each.case, each.quantity, each.peer) == wanted), None)

    def ratio(self, series: Series, baseline: str) -> float | None:
        """The median of `series` over the baseline's value of the same round; None where there is no such baseline."""
        base = self.find(series.case, series.quantity, baseline)
        if base is None or base is series:
            return None
        return median_ratio(series.values, base.values)


@dataclass
class Values:
    """Collects what is measured, round by round."""

    unit: str = "s"
    _lists: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def add(self, case: str, quantity: str, peer: str, value: float) -> None:
        """One more value of a series; the first one begins it."""
        self._lists.setdefault((case, quantity, peer), []).append(value)

    def series(self) -> tuple[Series, ...]:
        """All series, those of a case together, in the order in which they began."""
        cases = list(dict.fromkeys(case for case, _quantity, _peer in self._lists))
        ordered = sorted(self._lists.items(), key=lambda item: cases.index(item[0][0]))
        return tuple(Series(*key, tuple(values), self.unit) for key, values in ordered)


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The median over rounds of value / baseline, so that a slow minute of the machine does not decide."""
    return statistics.median(value / base for value, base in zip(values, baseline, strict=True))


def show_number(value: float) -> str:
    """Three digits, and no exponents where they can be spared: `0.0268`, `3.49`, `25,400`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_amount(value: float, unit: str) -> str:
    """`4.35 s`, `76 ms`, `3.65 ms`, or a rate such as `1,240 samples/s`."""
    if unit != "s":
        return f"{show_number(value)} {unit}"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.3g} ms"


def to_json(result: Result, baselines: Sequence[str]) -> dict[str, Any]:
    """A result with all its values and all that the table shows."""
    return {
        "series": [
            {
                **vars(each),
                "median": each.median,
                "p95": each.p95,
                "ratios": {name: result.ratio(each, name) for name in baselines},
            }
            for each in result.series
        ],
        "verdicts": [{**vars(each), "is_met": each.is_met} for each in result.verdicts],
        "notes": list(result.notes),
    }
