"""`dljobs usage`."""

from __future__ import annotations

from typing import Any

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
QUOTA_COLUMNS = (
    Column("quota of"),
    Column("period", right=True),
    Column("used", right=True),
    Column("allowed", right=True),
    Column("frees in", right=True),
)


@click.command()
@json_option
@click.pass_obj
def usage(settings: Settings, *, as_json: bool) -> None:
    """Show how much device time each user has had, beside their share, and how the quotas stand.

    What is long ago counts less: half after each half-life. Within a priority, who had less of their share comes first.
    A quota counts exactly what lies in its period.

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
    if found["users"]:
        print_table(COLUMNS, [_user_row(each) for each in found["users"]])
        print_lines(["", f"half-life {show_duration(found['half_life_s'])}"])
    else:
        print_lines(["nobody has used anything yet"])
    if found["quotas"]:
        print_lines([""])
        print_table(QUOTA_COLUMNS, [_quota_row(each) for each in found["quotas"]])


def _user_row(user: dict[str, Any]) -> list[str]:
    return [
        user["user"],
        f"{user['share']:g}",
        show_duration(user["device_s"]),
        f"{user['fraction']:.0%}",
        f"{user['entitled']:.0%}",
        f"{user['num_devices_running']:g}",
        str(user["num_waiting"]),
    ]


def _quota_row(each: dict[str, Any]) -> list[str]:
    frees = "" if not each["is_used_up"] else "not while so much runs"
    return [
        f"{each['kind']} {each['name']}",
        show_duration(each["period_s"]),
        f"{each['used_s'] / 3600:.2f}h",
        f"{each['allowed_s'] / 3600:g}h",
        frees if each["frees_in_s"] is None else show_duration(each["frees_in_s"]),
    ]
