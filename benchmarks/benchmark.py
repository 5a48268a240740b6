"""What a benchmark is, what it may use while it measures, and the order in which peers are measured.

It knows neither how results are shown nor what any benchmark measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .result import Result

T = TypeVar("T")


class BenchmarkError(Exception):
    """A peer could not be measured; the message holds its last words."""


@dataclass(frozen=True)
class Sitting:
    """One run of one benchmark."""

    folder: Path  # an empty temp folder: nothing is written anywhere else
    environments: Path  # where peers are installed once for all benchmarks of a command (environments.py)
    num_rounds: int
    is_smoke: bool  # only to see that it works: fewer cases, no warm-up
    say: Callable[[str], None]  # progress, for a person who waits
    is_long: bool = False  # where a case was cut down for a coffee break's sake: all of it


@dataclass(frozen=True)
class Benchmark:
    """One measurement that can be repeated by anyone; it stands alone in a file of `suite/`."""

    name: str
    title: str
    about: str  # what is timed from when to when, and what is fair or unfair about it; a paragraph of Markdown
    baselines: tuple[str, ...]  # the peers that all others are shown as a multiple of
    num_rounds: int  # unless --repeat says another
    measure: Callable[[Sitting], Result]
    ours: tuple[str, ...] = ("dljobs",)  # how the names of those peers begin that are dljobs itself


def interleaved(peers: Sequence[T], num_rounds: int) -> Iterator[T]:
    """Every peer once a round, so that what the machine does meanwhile meets all of them alike.

    Every other round runs backwards: nobody always comes after the same neighbour.
    """
    for number in range(num_rounds):
        yield from peers if number % 2 == 0 else reversed(peers)
