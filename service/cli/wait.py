"""`dljobs wait`."""

from __future__ import annotations

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_members
from .options import jobs_argument, json_option, timeout_option
from .output import print_json


@click.command()
@jobs_argument
@timeout_option
@json_option
@click.pass_obj
def wait(settings: Settings, *, jobs: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Wait until jobs have ended, and say how.

    The exit code is that of the first one that did not succeed: 100 failed, 103 cancelled, 104 the infrastructure
    failed, 105 time limit; 101 if one still goes on when the time is up.

    \b
    Examples:
      dljobs wait @
      dljobs wait 12 s3 --timeout 2h
    """
    from .following import first_failure, wait_until_ended

    lease_s = settings.lease_s
    with database_of(settings) as database:
        ended = wait_until_ended(database, resolve_members(database, jobs), lease_s=lease_s, timeout_s=timeout)
    if as_json:
        print_json("jobs", ended)
    return first_failure(ended)
