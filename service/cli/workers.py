"""`dljobs workers`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import database_of
from .options import json_option
from .output import print_json, print_lines, show_bytes
from .table import Column, print_table
from .wording import describe_share

Json = dict[str, Any]
COLUMNS = (
    Column("worker"),
    Column("node", kept=False),
    Column("state"),
    Column("heard of", right=True),
    Column("device"),
    Column("kind"),
    Column("memory", right=True),
    Column("job", right=True),
    Column("name", kept=False),
)


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that are offline.")
@json_option
@click.pass_obj
def workers(settings: Settings, *, show_all: bool, as_json: bool) -> None:
    """List the workers, when each was last heard of, its devices, and which job holds each.

    \b
    Example:
      dljobs workers
    """
    from dljobs.service.reports import list_workers

    with database_of(settings) as database:
        found = list_workers(database, lease_s=settings.lease_s)
    shown = [worker for worker in found if show_all or worker["state"] != "offline"]
    if as_json:
        print_json("workers", shown)
    elif not shown:
        print_lines(["no workers: start one with `dljobs worker`, or everything with `dljobs up`"])
    else:
        print_table(COLUMNS, [row for worker in shown for row in _rows(worker)])


def _rows(worker: Json) -> list[list[str]]:
    state = "silent" if worker["is_silent"] else worker["state"]
    about = [worker["name"], worker["node"], state, f"{show_duration(worker['silent_s'])} ago"]
    rows = []
    for device in worker["devices"] or [None]:
        rows.append([*about, *(_cells(device) if device else [""] * 5)])
        about = [""] * 4
    return rows


def _cells(device: Json) -> list[str]:
    memory = device["memory_bytes"]
    job = "" if device["job_id"] is None else str(device["job_id"])
    job = job or ", ".join(describe_share(share) for share in device["shared_by"])
    fault = f", quarantined: {device['quarantine']['reason']}" if device["quarantine"] else ""
    return [device["uuid"], device["kind"], "" if memory is None else show_bytes(memory), job, device["name"] + fault]
