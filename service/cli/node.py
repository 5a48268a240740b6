"""`dljobs node`: the nodes, what is on them, and which take nothing new."""

from __future__ import annotations

from typing import Any

import click

from dljobs.errors import NotFound
from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of
from .options import json_option
from .output import print_fields, print_json, print_lines, say, show_moment
from .table import Column, print_table
from .wording import describe_share

Json = dict[str, Any]
COLUMNS = (
    Column("node"),
    Column("state"),
    Column("workers", right=True),
    Column("devices", right=True),
    Column("free", right=True),
    Column("labels", kept=False),
    Column("reason", kept=False),
)


@click.group()
def node() -> None:
    """Show nodes, and keep work away from one.

    \b
    Examples:
      dljobs node list
      dljobs node drain gpu2 --reason "new fan"
    """


@node.command("list")
@json_option
@click.pass_obj
def list_nodes(settings: Settings, *, as_json: bool) -> None:
    """List the nodes with workers, their devices, and which are drained.

    \b
    Example:
      dljobs node list
    """
    found = _load(settings)
    if as_json:
        print_json("nodes", found)
    elif not found:
        print_lines(["no nodes: start a worker with `dljobs worker`, or everything with `dljobs up`"])
    else:
        print_table(COLUMNS, [_row(each) for each in found])


@node.command()
@click.argument("name", metavar="NODE")
@json_option
@click.pass_obj
def show(settings: Settings, *, name: str, as_json: bool) -> None:
    """Show one node: its workers, devices, labels and jobs.

    \b
    Example:
      dljobs node show gpu2
    """
    found = _find(settings, name)
    if as_json:
        print_json("nodes", [found])
        return
    drained = found["drained"]
    fields = {
        "node": name,
        "state": found["state"],
        "drained": f"{show_moment(drained['at'])} by {drained['by']}" if drained else "",
        "reason": drained["reason"] if drained else "",
        "labels": _labels(found),
        "devices": f"{found['num_free']} of {found['num_devices']} free",
    }
    print_fields(fields)
    for worker in found["workers"]:
        jobs = sorted({device["job_id"] for device in worker["devices"] if device["job_id"] is not None})
        running = f", jobs {', '.join(map(str, jobs))}" if jobs else ""
        running += "".join(
            f", {device['uuid']} shared by {', '.join(map(describe_share, device['shared_by']))}"
            for device in worker["devices"]
            if device["shared_by"]
        )
        print_lines([f"worker {worker['name']} is {worker['state']}: {len(worker['devices'])} devices{running}"])
        lost = [device for device in worker["devices"] if device["quarantine"]]
        print_lines([f"  {device['uuid']} is quarantined: {device['quarantine']['reason']}" for device in lost])


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--reason", default="", help="Why; `why` and `node list` show it.")
@click.option("--now", "evict", is_flag=True, help="Also stop what runs there: it checkpoints and goes elsewhere.")
@click.pass_obj
def drain(settings: Settings, *, name: str, reason: str, evict: bool) -> None:
    """Give a node nothing new; what runs there goes on unless --now is given.

    \b
    Examples:
      dljobs node drain gpu2 --reason "new fan"
      dljobs node drain gpu2 --now
    """
    from dljobs.service.control import drain as keep_away

    with database_of(settings) as database:
        heard = keep_away(
            database, doorbell_of(settings), name, actor=settings.user, reason=reason.strip(), evict=evict
        )
    say(f"node {name} is drained" + (": what runs there checkpoints and goes elsewhere" if evict else ""))
    if not heard:
        say("warning: Redis does not answer: its workers see it when they next look at the database")


@node.command()
@click.argument("name", metavar="NODE")
@click.pass_obj
def undrain(settings: Settings, *, name: str) -> None:
    """Let a node take work again.

    \b
    Example:
      dljobs node undrain gpu2
    """
    from dljobs.service.control import undrain as let_in

    with database_of(settings) as database:
        let_in(database, doorbell_of(settings), name, actor=settings.user)
    say(f"node {name} takes work again")


def _load(settings: Settings) -> list[Json]:
    from dljobs.service.reports import list_nodes as load

    with database_of(settings) as database:
        return load(database, lease_s=settings.lease_s)


def _find(settings: Settings, name: str) -> Json:
    found = _load(settings)
    for each in found:
        if each["node"] == name:
            return each
    raise NotFound(f"there is no node {name!r}", f"nodes: {', '.join(each['node'] for each in found) or 'none yet'}")


def _row(found: Json) -> list[str]:
    return [
        found["node"],
        found["state"],
        str(len(found["workers"])),
        str(found["num_devices"]),
        str(found["num_free"]),
        _labels(found),
        found["drained"]["reason"] if found["drained"] else "",
    ]


def _labels(found: Json) -> str:
    return " ".join(f"{key}={value}" for key, value in found["labels"].items())
