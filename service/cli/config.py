"""`dljobs config`."""

from __future__ import annotations

import click

from dljobs.service.settings import Settings

from .options import json_option
from .output import print_json
from .table import Column, print_table


@click.command()
@json_option
@click.pass_obj
def config(settings: Settings, *, as_json: bool) -> None:
    """Show each setting, its value and where it came from: a flag, the environment, the file, or the default.

    \b
    Examples:
      dljobs config
      dljobs --home /tmp/trial config --json
    """
    from dljobs.service.views import settings_view

    found = settings_view(settings)
    if as_json:
        print_json("settings", found)
        return
    rows = [[each["name"], _value(each["name"], each["value"]), each["source"], each["meaning"]] for each in found]
    print_table((Column("setting"), Column("value"), Column("from"), Column("")), rows)


def _value(name: str, value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:g} s" if name.endswith("_s") else f"{value:g}"
    return value or "-"
