"""`dljobs sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dljobs.errors import NotFound, UsageError
from dljobs.service.settings import Settings

from .opening import database_of, resolve_targets
from .options import json_option
from .output import print_json, print_lines, say, show_number
from .table import Column, table_lines
from .wording import describe_set


@click.command()
@click.argument("which", metavar="SET", default="s@")
@click.option("--best", is_flag=True, help="Print only the id of the best job that succeeded.")
@click.option("--plot", "target", metavar="FILE", type=click.Path(path_type=Path), help="Draw it: .png, .svg or .pdf.")
@json_option
@click.pass_obj
def sweep(settings: Settings, *, which: str, best: bool, target: Path | None, as_json: bool) -> None:
    """Show the jobs of a set with what they differ in, the best first; `*` marks the best that succeeded.

    SET is s3, or s@ for the latest. One of its jobs is s3.7, and the best of them s3.best, wherever a job is named.

    \b
    Examples:
      dljobs sweep s3
      dljobs sweep s@ --plot out.png
      dljobs sweep s3 --best
    """
    from dljobs.service.set_reports import sweep as load_sweep

    if best and as_json:
        raise UsageError("--best and --json both write to stdout", "with --json the best trial has best: true")
    if target is not None:
        from dljobs.service.figures import check_target

        check_target(target)
    with database_of(settings) as database:
        [named] = resolve_targets(database, [which])
        if not named.is_set:
            raise UsageError(f"{which} is a job, not a set", "name a set, such as s3, or s@ for the latest")
        found = load_sweep(database, named.id)
    if best:
        print_lines([_best(found)])
    elif as_json:
        print_json("sweep", found)
    else:
        print_lines(_lines(found))
    if target is not None:
        from dljobs.service.plots import draw_panels
        from dljobs.service.set_panels import panels_of_sweep

        draw_panels(panels_of_sweep(found), target)
        say(f"drew {target}")


def _best(found: dict[str, Any]) -> str:
    for trial in found["trials"]:
        if trial["best"]:
            return str(trial["job_id"])
    raise NotFound(f"no job of {found['id']} has succeeded yet", f"`dljobs sweep {found['id']}` shows how they stand")


def _lines(found: dict[str, Any]) -> list[str]:
    names = [axis["name"] for axis in found["axes"]]
    columns = [
        Column(""),
        Column("id", right=True),
        Column("job", right=True),
        *(Column(name, right=True) for name in names),
        Column("state"),
        Column("epoch", right=True),
        Column(found["metric"], right=True),
        Column("reason", kept=False),
    ]
    rows = [
        [
            "*" if trial["best"] else "",
            trial["id"],
            str(trial["job_id"]),
            *(_show(trial["settings"].get(name)) for name in names),
            "pruned" if trial["failure_class"] == "pruned" else trial["state"],
            "" if trial["epoch"] is None else str(trial["epoch"]),
            show_number(trial["value"]),
            "" if trial["state"] == "succeeded" else trial["reason"],
        ]
        for trial in found["trials"]
    ]
    legend = ["* the best so far"] if any(trial["best"] for trial in found["trials"]) else []
    return [*table_lines(columns, rows), *legend, "", describe_set(found)]


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
