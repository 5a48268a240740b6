"""`dljobs status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import click

from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import answer
from .options import json_option
from .output import print_json, print_lines, show_moment
from .table import Column, table_lines
from .wording import describe, describe_eta, describe_progress, describe_set, describe_size

WATCH_EVERY_S = 2.0
WAITING = ("queued", "held")
START_COLUMNS = (
    Column("id", right=True),
    Column("name", kept=False),
    Column("user", kept=False),
    Column("priority", right=True),
    Column("devices", right=True),
    Column("place", right=True),
    Column("expected start"),
    Column("in", right=True),
    Column("reason", kept=False),
)
COLUMNS = (
    Column("id", right=True),
    Column("name", kept=False),
    Column("user", kept=False),
    Column("model", kept=False),
    Column("state"),
    Column("devices", right=True),
    Column("progress"),
    Column("eta", right=True),
    Column("run", right=True),
    Column("age", right=True),
    Column("reason or result", kept=False),
)


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="All jobs there ever were.")
@click.option(
    "-n", "limit", metavar="N", type=click.IntRange(min=0), default=20, show_default=True,
    help="At most so many waiting jobs, and so many that ended.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@click.option("--expand", is_flag=True, help="With the jobs of sets, which have one line together otherwise.")
@click.option("--start", is_flag=True, help="Only what waits, with the time at which each is expected to start.")
@json_option
@click.pass_obj
def status(
    settings: Settings, *, show_all: bool, limit: int, watch: bool, start: bool, expand: bool, as_json: bool
) -> None:
    """Show what runs, what waits and why, what ended lately, and which devices are free.

    \b
    Examples:
      dljobs status
      dljobs status --all --json
      dljobs status --start
      dljobs status --expand
    """
    from dljobs.service import overview

    most = None if show_all or start else limit
    # Ctrl-C is how a watch ends, wherever it comes.
    with suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            found = answer(settings, partial(overview.status, lease_s=settings.lease_s, limit=most, expand=expand))
            if start:
                found["jobs"] = [job for job in found["jobs"] if job["state"] in WAITING]
            if as_json:
                print_json("status", found)
            else:
                _print(_start_lines(found) if start else _lines(found), clear=watch)
            if not watch:
                return
            time.sleep(WATCH_EVERY_S)


def _print(lines: Sequence[str], *, clear: bool) -> None:
    if clear and sys.stdout.isatty():
        # Home, each line to its end, then what is below: without a moment in which nothing is there.
        lines = ["\x1b[H" + "\n".join(line + "\x1b[K" for line in lines) + "\n\x1b[J"]
    print_lines(lines)


def _lines(found: dict[str, Any]) -> list[str]:
    rows = [_set_row(each) for each in found["sets"]] + [_row(job) for job in found["jobs"]]
    lines = table_lines(COLUMNS, rows) if rows else ["no jobs yet"]
    if found["num_not_shown"]:
        lines.append(f"… and {found['num_not_shown']} more that wait (--all shows them)")
    return [*lines, "", footer(found)]


def _start_lines(found: dict[str, Any]) -> list[str]:
    if not found["jobs"]:
        return ["no job waits", "", footer(found)]
    # Those that nobody can tell last, each group in the order of the queue.
    ordered = sorted(found["jobs"], key=lambda job: (job["expected_start_at"] is None, job["place"] is None))
    return [*table_lines(START_COLUMNS, [_start_row(job) for job in ordered]), "", footer(found)]


def _start_row(job: dict[str, Any]) -> list[str]:
    return [
        str(job["id"]),
        job["name"],
        job["user"],
        str(job["priority"]),
        job["size"],
        str(job["place"] or ""),
        show_moment(job["expected_start_at"]) or "unknown",
        describe_eta(job).removeprefix("starts "),
        describe(job),
    ]


def _row(job: dict[str, Any]) -> list[str]:
    return [
        str(job["id"]),
        job["name"],
        job["user"],
        job["model"],
        job["state"],
        describe_size(job),
        describe_progress(job),
        describe_eta(job),
        str(job["num_runs"] or ""),
        show_duration(job["age_s"]),
        describe(job),
    ]


def _set_row(each: dict[str, Any]) -> list[str]:
    why = each["reasons"][0]["text"] if each["reasons"] else ""
    counts = describe_set(each).partition(": ")[2]
    return [
        each["id"],
        each["name"],
        each["user"],
        each["model"],
        each["state"],
        "",
        f"{each['num_ended']}/{each['num_jobs']} jobs",
        "",
        "",
        show_duration(each["age_s"]),
        f"{counts}; the next: {why}" if why else counts,
    ]


def footer(found: dict[str, Any]) -> str:
    """Devices and workers in one line, with what is stale."""
    devices, workers = found["devices"], found["workers"]
    parts = [f"{devices['free']} of {devices['total']} devices free"]
    if devices["quarantined"]:
        parts.append(f"{devices['quarantined']} quarantined (`dljobs gpu list`)")
    parts.append(f"{workers['online']} worker{'' if workers['online'] == 1 else 's'}")
    if workers["draining"]:
        parts.append(f"{workers['draining']} draining")
    parts += [f"{silent['name']} is silent for {show_duration(silent['silent_s'])}" for silent in workers["silent"]]
    if not workers["online"]:
        parts.append("nothing starts until a worker does: `dljobs up` or `dljobs worker`")
    return " · ".join(parts)
