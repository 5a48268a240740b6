"""`dljobs doctor`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dljobs.errors import ExitCode
from dljobs.service.settings import Settings

from .options import json_option
from .output import one_line, print_json, print_lines
from .table import output_width

if TYPE_CHECKING:
    from dljobs.service.doctor_checks import Check

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.option("--nodes", is_flag=True, help="Also time an all-reduce between the nodes, by a job on a device of each.")
@json_option
@click.pass_obj
def doctor(settings: Settings, *, nodes: bool, as_json: bool) -> int:
    """Look at everything dljobs depends on; what is not well comes with its cure. Exit code 1 if something failed.

    \b
    Examples:
      dljobs doctor
      dljobs doctor --nodes
      dljobs --redis-url redis://:secret@broker:6379/0 doctor
    """
    from dljobs.service.doctor import examine, is_well

    report = examine(settings, nodes=nodes)
    if as_json:
        print_json("checks", [dataclasses.asdict(check) for check in report])
    else:
        print_lines(_table_lines(report))
    return ExitCode.OK if is_well(report) else ExitCode.ERROR


def _table_lines(report: Sequence[Check]) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")  # not one_line's table: a cure that is cut cannot be copied
    for check in report:
        found = Text(one_line(check.detail))
        if check.cure:
            found.append(f"\n→ {one_line(check.cure)}", style=STYLES[check.ok])
        table.add_row(Text(check.ok, style=STYLES[check.ok]), check.name, found)
    is_terminal = sys.stdout.isatty()
    console = Console(width=output_width() if is_terminal else 1000, force_terminal=is_terminal, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
