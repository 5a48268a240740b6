"""Axes: what the jobs of a set differ in, from `--array` and `--sweep`, and the points that axes span.

It owns the forms `0-15:5%4`, `lr=0.1,0.01`, `seed=0-3` and `lr~log(1e-4,1e-1)`, and how a random value is drawn. It
knows no job: what a name means and which values it takes is told by an `Option`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dljobs.errors import UnknownName, UsageError
from dljobs.models.options import Option, coerce

MAX_JOBS = 100_000  # of one set
INDEX = "index"
DIGITS = 6  # of a drawn number: as many as a person would type

_ARRAY = re.compile(r"(?P<indices>[0-9,:-]+)(?:%(?P<parallel>\d+))?")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_DRAWN = re.compile(r"(?P<name>[^~=]+)~(?P<kind>\w+)\((?P<arguments>[^()]*)\)")
_FORMS = "write --sweep lr=0.1,0.01, --sweep seed=0-3, or --sweep 'lr~log(1e-4,1e-1)' --trials 20"


@dataclass(frozen=True)
class Axis:
    """One thing that varies, and its values in order; `is_log`: they were drawn evenly over orders of magnitude."""

    name: str
    values: tuple[Any, ...]
    is_log: bool = False
    is_drawn: bool = False  # one value a trial


@dataclass(frozen=True)
class Wish:
    """An axis as it was typed, before it is known what its name means."""

    name: str
    text: str  # what follows the name
    kind: str = ""  # of a distribution; none for a list of values
    arguments: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Wish:
        """`NAME=VALUES` or `NAME~KIND(ARGUMENTS)`.

        Raises:
            UsageError: it is neither.
        """
        drawn = _DRAWN.fullmatch(text.strip())
        if drawn is not None:
            if drawn["kind"] not in _DRAWS:
                raise UnknownName("distribution", drawn["kind"], _DRAWS, "such as --sweep 'lr~log(1e-4,1e-1)'")
            arguments = tuple(each.strip() for each in drawn["arguments"].split(","))
            return cls(_clean(drawn["name"]), text.partition("~")[2], drawn["kind"], arguments)
        name, equals, values = text.partition("=")
        if not equals or not _clean(name) or "~" in name:
            raise UsageError(f"--sweep: {text[:60]!r} is no range of values", _FORMS)
        return cls(_clean(name), values)


def grid_axis(wish: Wish, option: Option) -> Axis:
    """The values that were listed, each one that the option takes.

    Raises:
        UsageError: one is not, or one is there twice.
    """
    values: list[Any] = []
    for text in map(str.strip, wish.text.split(",")):
        is_range = option.type == "int" and _RANGE.fullmatch(text)
        values += [coerce(option, each) for each in (_expand(text, f"--sweep {wish.name}") if is_range else [text])]
    if len(set(values)) < len(values):
        raise UsageError(f"--sweep {wish.name}={wish.text[:40]} has a value twice", "name each value once")
    return Axis(wish.name, tuple(values))


def drawn_axis(wish: Wish, option: Option, num_trials: int, search_seed: int) -> Axis:
    """So many values drawn from the distribution.

    The draws of an axis depend on nothing but the seed and its name: another axis changes none of them, and more trials
    begin with the same ones.

    Raises:
        UsageError: the distribution cannot be right, or does not go with the option.
    """
    draw = _DRAWS[wish.kind](wish, option)
    # Only `random()`: Python promises its sequence for a seed, not that of its other methods.
    random = Random(f"{search_seed}:{wish.name}").random  # noqa: S311
    values = tuple(draw(random()) for _ in range(num_trials))
    return Axis(wish.name, values, is_log=wish.kind == "log", is_drawn=True)


def parse_array(text: str) -> tuple[tuple[int, ...], int | None]:
    """The indices of `0-15`, `1,3,5-9`, `0-100:10` or `0-15%4`, and how many may run at a time.

    Raises:
        UsageError: it is none of these.
    """
    found = _ARRAY.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--array: {text[:40]!r} is no list of indices", "write 0-15, 0-15%4 (4 at a time) or 1,3,5-9")
    expanded = [_expand(part, "--array") for part in found["indices"].split(",")]
    indices = tuple(index for part in expanded for index in part)
    if len(set(indices)) < len(indices):
        raise UsageError(f"--array: {text[:40]!r} has an index twice", "name each index once")
    parallel = found["parallel"]
    return indices, None if parallel is None else int(parallel)


def points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, the last axis the fastest. All that is drawn changes together, once a trial, and slowest.

    Raises:
        UsageError: there are too many.
    """
    drawn = [axis for axis in axes if axis.is_drawn]
    listed = [axis for axis in axes if not axis.is_drawn]
    trials = list(zip(*(axis.values for axis in drawn), strict=True)) if drawn else [()]
    number = len(trials) * math.prod(len(axis.values) for axis in listed)
    if number > MAX_JOBS:
        raise UsageError(f"that makes {number:,} jobs, and a set has at most {MAX_JOBS:,}", "name fewer values")
    names = [axis.name for axis in (*drawn, *listed)]
    for trial in trials:
        for values in itertools.product(*(axis.values for axis in listed)):
            point = dict(zip(names, (*trial, *values), strict=True))
            yield {axis.name: point[axis.name] for axis in axes}


def _expand(text: str, flag: str) -> range:
    """The numbers that `3`, `0-15` or `0-100:10` stands for."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UsageError(f"{flag}: {text[:40]!r} is no range", "write 0-15, or 0-100:10 for every tenth")
    first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
    if first > last:
        raise UsageError(f"{flag}: {text} counts backwards", f"write {last}-{first}")
    if not step:
        raise UsageError(f"{flag}: {text} has a step of 0", f"nearest: {first}-{last}:1")
    if (last - first) // step >= MAX_JOBS:
        raise UsageError(f"{flag}: {text} has too many values", f"a set has at most {MAX_JOBS:,} jobs")
    return range(first, last + 1, step)


def _clean(name: str) -> str:
    return name.strip().replace("-", "_")


def _bounds(wish: Wish, option: Option) -> tuple[float, float]:
    """The two numbers of a distribution, ascending."""
    form = f"{wish.name}~{wish.kind}"
    if option.type not in ("int", "float"):
        raise UsageError(
            f"--sweep {form}: {wish.name} is not a number", f"write {wish.name}~choice(…) with the values to try"
        )
    try:
        low, high = (float(each) for each in wish.arguments)
    except ValueError:
        raise UsageError(
            f"--sweep {form} takes two numbers, not ({','.join(wish.arguments)[:40]})", f"write {form}(1,10)"
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"--sweep {wish.name}~{wish.text}: the first number is not below the second", f"write {form}(1,10)"
        )
    return low, high


def _uniform(wish: Wish, option: Option) -> Callable[[float], Any]:
    low, high = _bounds(wish, option)
    if option.type == "int":
        hint = f"write {wish.name}~int({low:g},{high:g})"
        raise UsageError(f"--sweep {wish.name}~uniform: {wish.name} takes whole numbers", hint)
    return lambda random: _rounded(low + random * (high - low))


def _log(wish: Wish, option: Option) -> Callable[[float], Any]:
    low, high = _bounds(wish, option)
    if low <= 0:
        raise UsageError(
            f"--sweep {wish.name}~{wish.text}: a logarithmic range lies above 0",
            f"write {wish.name}~log(1e-6,{high:g})",
        )

    def draw(random: float) -> float | int:
        value = low * (high / low) ** random
        return round(value) if option.type == "int" else _rounded(value)

    return draw


def _int(wish: Wish, option: Option) -> Callable[[float], Any]:
    low, high = _bounds(wish, option)
    if not (low.is_integer() and high.is_integer()):
        hint = f"write {wish.name}~int({math.floor(low)},{math.ceil(high)})"
        raise UsageError(f"--sweep {wish.name}~{wish.text}: an int range has whole ends", hint)
    kind = int if option.type == "int" else float
    return lambda random: kind(low + int(random * (high - low + 1)))


def _choice(wish: Wish, option: Option) -> Callable[[float], Any]:
    values = [coerce(option, each) for each in wish.arguments]
    return lambda random: values[int(random * len(values))]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


_DRAWS = {"uniform": _uniform, "log": _log, "int": _int, "choice": _choice}
