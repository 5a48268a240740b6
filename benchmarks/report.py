"""How results are shown: a table for the terminal, the same table in RESULTS.md, and JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .benchmark import Benchmark
from .machine import Load, Machine
from .result import FORMAT_VERSION, Result, Series, Verdict, show_amount, show_number, to_json

RESULTS_HEAD = """# Results

Written by `python -m benchmarks --write-results`; what is measured, and how to repeat it, is told in
[README.md](README.md). Ratios are medians over rounds of (value / baseline in the same round); p95 is by nearest rank.
"""
BY_HAND = "<!-- by hand: what stands below stays when the table is made anew -->\n"


@dataclass(frozen=True)
class Report:
    """One benchmark's result, and where it came from."""

    benchmark: Benchmark
    result: Result
    num_rounds: int
    machine: Machine
    load: Load  # before the first benchmark
    others_share: float  # of the machine, while this one was measured
    at: float

    def to_json(self) -> dict[str, Any]:
        """All that was measured."""
        about = {"name": self.benchmark.name, "title": self.benchmark.title, "baselines": self.benchmark.baselines}
        sitting = {"num_rounds": self.num_rounds, "others_share": self.others_share}
        return {**about, **sitting, **to_json(self.result, self.benchmark.baselines)}

    def print(self, console: Console) -> None:
        """The table, the verdicts and the notes."""
        table = Table(title=f"{self.benchmark.title} ({_rounds(self.num_rounds)})", title_justify="left")
        for name in self._words():
            table.add_column(name)
        for name in self._numbers():
            table.add_column(name, justify="right")
        case = None
        for each in self.result.series:
            if case not in (None, each.case):
                table.add_section()
            case = each.case
            table.add_row(*self._row(each))
        console.print(table)
        for verdict in self.result.verdicts:
            console.print(_verdict_line(verdict), style="green" if verdict.is_met else "bold red", highlight=False)
        for note in self.result.notes:
            console.print(note, highlight=False)
        console.print(self._disturbance(), highlight=False)

    def to_markdown(self) -> str:
        """The section of RESULTS.md."""
        words, numbers = self._words(), self._numbers()
        rows = [[*words, *numbers], [*["---"] * len(words), *["---:"] * len(numbers)]]
        rows += [self._row(each) for each in self.result.series]
        day = time.strftime("%Y-%m-%d", time.gmtime(self.at))
        parts = [
            f"## {self.benchmark.title}",
            self.benchmark.about,
            f"{day}, {_rounds(self.num_rounds)}. {self.machine}. {self.load} {self._disturbance()}",
            f"![{self.benchmark.title}](plots/{self.benchmark.name}.png)",
            "\n".join("| " + " | ".join(row) + " |" for row in rows),
            "\n".join(f"- {_verdict_line(verdict)}" for verdict in self.result.verdicts),
            "\n".join(f"- {note}" for note in self.result.notes),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _words(self) -> list[str]:
        return [*(["case"] if self._has_cases() else []), "measured", "who"]

    def _numbers(self) -> list[str]:
        return ["median", "p95", *(f"× {name}" for name in self._baselines())]

    def _baselines(self) -> list[str]:
        """Those that could be measured here."""
        peers = {each.peer for each in self.result.series}
        return [name for name in self.benchmark.baselines if name in peers]

    def _has_cases(self) -> bool:
        return any(each.case for each in self.result.series)

    def _disturbance(self) -> str:
        return f"While it was measured, others used {self.others_share:.0%} of the machine."

    def _row(self, series: Series) -> list[str]:
        ratios = (self.result.ratio(series, name) for name in self._baselines())
        times = [show_amount(series.median, series.unit), show_amount(series.p95, series.unit)]
        words = [*([series.case] if self._has_cases() else []), series.quantity, series.peer]
        return [*words, *times, *("" if r is None else show_number(r) for r in ratios)]


def reports_to_json(reports: Sequence[Report], machine: Machine, load: Load, *, is_smoke: bool) -> dict[str, Any]:
    """The results file: one machine, one sitting, any number of benchmarks."""
    return {
        "version": FORMAT_VERSION,
        "at": time.time(),
        "is_smoke": is_smoke,
        "machine": machine.to_json(),
        "load_before": load.to_json(),
        "benchmarks": [report.to_json() for report in reports],
    }


def merge_markdown(existing: str, reports: Sequence[Report]) -> str:
    """RESULTS.md with the sections of these benchmarks replaced or added; the others stay as they were measured.

    In a replaced section, too, what a person wrote below the mark `BY_HAND` stays.
    """
    sections = dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", existing, re.DOTALL))
    for report in reports:
        kept = sections.get(report.benchmark.name, "").partition(BY_HAND)[2]
        sections[report.benchmark.name] = f"{report.to_markdown()}\n{BY_HAND}{kept}"
    blocks = [f"<!-- begin {name} -->\n{text}<!-- end {name} -->\n" for name, text in sorted(sections.items())]
    return "\n".join([RESULTS_HEAD, *blocks])


def _verdict_line(verdict: Verdict) -> str:
    bound = "at least" if verdict.is_minimum else "at most"
    word = "met" if verdict.is_met else "MISSED"
    return f"{word}: {verdict.claim}: {verdict.value:.3g}, expected {bound} {verdict.limit:g}"


def _rounds(number: int) -> str:
    return f"{number} round{'' if number == 1 else 's'}"
