"""Output: data on stdout, talk on stderr; JSON, lines, and text that is safe to print (`table.py` has the tables)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from dljobs.service.json_text import to_json


def print_json(noun: str, value: Any) -> None:
    """Print the envelope that `output_schema.json` describes: for people where people read it, else on one line."""
    text = to_json({"dljobs": 1, noun: value})
    print_lines([json.dumps(json.loads(text), indent=2) if sys.stdout.isatty() else text])


def print_lines(lines: Sequence[str]) -> None:
    """Print lines to stdout at once."""
    if lines:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def say(text: str) -> None:
    """Talk to the user, on stderr."""
    click.echo(text, err=True)


def print_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, aligned; what is empty is left out."""
    shown = {name: value for name, value in fields.items() if value}
    width = max(map(len, shown), default=0)
    print_lines([f"{name:<{width}}  {one_line(value)}" for name, value in shown.items()])


def one_line(text: str) -> str:
    """The text without what would move a terminal's cursor: user code may have written it."""
    return "".join(character if character.isprintable() else " " for character in text)


def printable(text: str) -> str:
    """As `one_line`, with line ends and tabs kept."""
    return "".join(character if character.isprintable() or character in "\n\t" else " " for character in text)


def show_moment(at: float | None) -> str:
    """A moment in local time, to the second."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def show_number(value: Any) -> str:
    """A metric's value, short; `-` where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else str(value)
    if 1e5 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e9 else f"{value:.4f}".rstrip("0").rstrip(".")


def show_shape(sizes: Sequence[int]) -> str:
    """The shape of a tensor: `(6,1,5,5)`, `()` of a single number."""
    return f"({','.join(map(str, sizes))})"


def show_bytes(size: int) -> str:
    """A size in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


@contextmanager
def line_writer(*, bar: bool) -> Iterator[Any]:
    """Something with `write(lines)` and `progress(job)`: a bar on stderr if `bar` and stderr is a terminal."""
    if not (bar and sys.stderr.isatty()):
        yield PlainWriter()
        return
    from .progress_bar import BarWriter

    with BarWriter() as writer:
        yield writer


class PlainWriter:
    """Lines to stdout, no bar."""

    def write(self, lines: Sequence[str]) -> None:
        """Print lines."""
        print_lines(lines)

    def progress(self, job: Mapping[str, Any]) -> None:
        """Nobody would see a bar."""
