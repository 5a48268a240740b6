"""`dljobs db`."""

from __future__ import annotations

import sys

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .options import json_option
from .output import print_json, print_lines, say


@click.group()
def db() -> None:
    """Create or migrate the tables of the database.

    `dljobs up` does it by itself for the embedded one.

    \b
    Examples:
      dljobs db upgrade
      dljobs db current
    """


@db.command()
@click.argument("revision", default="head")
@click.pass_obj
def upgrade(settings: Settings, *, revision: str) -> None:
    """Create the tables, or bring them up to date.

    \b
    Example:
      dljobs db upgrade
    """
    from dljobs.service.schema import upgrade as migrate

    say(f"the database is at {migrate(settings, revision)}")


@db.command()
@click.argument("revision")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def downgrade(settings: Settings, *, revision: str, yes: bool) -> None:
    """Take the tables back to REVISION.

    What that revision did not have is lost; `base` drops everything.

    \b
    Example:
      dljobs db downgrade base --yes
    """
    from dljobs.service.schema import downgrade as migrate

    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("a downgrade loses data, and there is no terminal to ask on", "say --yes to go on")
        click.confirm(f"Take the database back to {revision}, and lose what it did not have?", abort=True, err=True)
    say(f"the database is at {migrate(settings, revision)}")


@db.command()
@json_option
@click.pass_obj
def current(settings: Settings, *, as_json: bool) -> None:
    """Print the revision of the tables.

    \b
    Example:
      dljobs db current
    """
    from dljobs.service.reports import schema as load_schema

    found = load_schema(settings)
    if as_json:
        print_json("schema", found)
        return
    print_lines([found["current"] or "base"])
    if not found["is_current"]:
        say(f"this dljobs needs {found['needed']}")
