"""`dljobs why`."""

from __future__ import annotations

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import job_argument, json_option
from .output import one_line, print_json, print_lines


@click.command()
@job_argument
@json_option
@click.pass_obj
def why(settings: Settings, *, job: str, as_json: bool) -> None:
    """Say every reason why a job waits, or where it runs, or how it ended.

    The reasons are those of the scheduler itself.

    \b
    Examples:
      dljobs why @
      dljobs why 12 --json
    """
    from dljobs.service.explanation import explain

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        explained = explain(database, job_id, lease_s=settings.lease_s)
    if as_json:
        print_json("why", explained)
        return
    sentences = [f"  {one_line(sentence)}" for sentence in explained["sentences"]]
    print_lines([f"job {job_id} is {explained['state']}:", *sentences])
