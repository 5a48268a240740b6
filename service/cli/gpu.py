"""`dljobs gpu`: the devices, which of them are in quarantine and why."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of
from .options import json_option
from .output import print_json, print_lines, say, show_moment
from .table import Column, print_table
from .wording import describe_share

Json = dict[str, Any]
COLUMNS = (
    Column("device"),
    Column("worker", kept=False),
    Column("state"),
    Column("since"),
    Column("tries", right=True),
    Column("next try"),
    Column("reason", kept=False),
)


@click.group()
def gpu() -> None:
    """Show devices, and let one out of quarantine.

    \b
    Examples:
      dljobs gpu list
      dljobs gpu release gpu2:0
    """


@gpu.command("list")
@json_option
@click.pass_obj
def list_gpus(settings: Settings, *, as_json: bool) -> None:
    """List the devices that workers offer: free, held by a job, or in quarantine, with the reason.

    \b
    Example:
      dljobs gpu list
    """
    from dljobs.service.reports import list_devices

    with database_of(settings) as database:
        found = list_devices(database, lease_s=settings.lease_s)
    if as_json:
        print_json("devices", found)
    elif not found:
        print_lines(["no devices: start a worker with `dljobs worker`, or everything with `dljobs up`"])
    else:
        print_table(COLUMNS, [_row(each) for each in found])


@gpu.command()
@click.argument("device", metavar="NODE:DEVICE")
@click.pass_obj
def release(settings: Settings, *, device: str) -> None:
    """Let a device take work again: the fault that was found is accepted, and another one is not.

    DEVICE is its UUID, how that begins, or its position. A device that does not answer is found again.

    \b
    Examples:
      dljobs gpu release gpu2:0
      dljobs gpu release gpu2:GPU-5a2e
    """
    from dljobs.service.control import release_device

    with database_of(settings) as database:
        name, heard = release_device(database, doorbell_of(settings), device, actor=settings.user)
    say(f"device {name} takes work again")
    if not heard:
        say("warning: Redis does not answer: workers see it when they next look at the database")


def _row(device: Json) -> list[str]:
    held, fault = device["job_id"], device["quarantine"]
    sharing = ", ".join(describe_share(share) for share in device["shared_by"])
    state = "quarantined" if fault else f"job {held}" if held is not None else sharing or "free"
    about = [f"{device['node']}:{device['uuid']}", device["worker"], state]
    if fault is None:
        return [*about, "", "", "", ""]
    tried = [show_moment(fault["since_at"]), str(fault["num_tries"]), show_moment(fault["next_try_at"])]
    return [*about, *tried, fault["reason"]]
