"""`dljobs usage`."""

from __future__ import annotations

import click

from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import database_of
from .options import json_option
from .output import print_json, print_lines
from .table import Column, print_table

COLUMNS = (
    Column("user"),
    Column("share", right=True),
    Column("device time", right=True),
    Column("of all", right=True),
    Column("entitled to", right=True),
    Column("running", right=True),
    Column("waiting", right=True),
)


@click.command()
@json_option
@click.pass_obj
def usage(settings: Settings, *, as_json: bool) -> None:
    """Show how much device time each user has had, beside their share.

    What is long ago counts less: half after each half-life. Within a priority, who had less of their share comes first.

    \b
    Example:
      dljobs usage
    """
    from dljobs.service.usage_report import usage_report

    with database_of(settings) as database:
        found = usage_report(database)
    if as_json:
        print_json("usage", found)
        return
    if not found["users"]:
        print_lines(["nobody has used anything yet"])
        return
    print_table(
        COLUMNS,
        [
            [
                user["user"],
                f"{user['share']:g}",
                show_duration(user["device_s"]),
                f"{user['fraction']:.0%}",
                f"{user['entitled']:.0%}",
                f"{user['num_devices_running']:g}",
                str(user["num_waiting"]),
            ]
            for user in found["users"]
        ],
    )
    print_lines(["", f"half-life {show_duration(found['half_life_s'])}"])
