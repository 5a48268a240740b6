"""`dljobs update`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, resolve_members
from .options import jobs_argument, json_option, to_seconds, to_size
from .output import print_json, say


@click.command()
@jobs_argument
@click.option("--priority", metavar="0..100", type=int, help="Higher starts earlier.")
@click.option("--gpus", "size", metavar="N", callback=to_size, help="Devices: 4, what is free of 2-8, or 0.25 of one.")
@click.option("--nodes", "num_nodes", metavar="K", type=int, help="On exactly so many nodes, in equal parts.")
@click.option("--spread/--no-spread", "may_spread", default=None, help="Over the fewest nodes that fit, if none does.")
@click.option("--time", "time_limit_s", metavar="DURATION", callback=to_seconds, help="Stop it after: 90, 15m, 2h.")
@click.option("--name", help="What to call the job.")
@json_option
@click.pass_obj
def update(settings: Settings, /, *, jobs: tuple[str, ...], as_json: bool, **changes: Any) -> int:
    """Change jobs that wait.

    \b
    Examples:
      dljobs update 12 --priority 60
      dljobs update @ --gpus 2-4 --time 1h
      dljobs update @ --spread
    """
    from dljobs.service.control import update as change
    from dljobs.service.names import Target
    from dljobs.service.reports import list_jobs

    wanted = {name: value for name, value in changes.items() if value is not None}
    if "may_spread" in wanted:
        wanted["may_spread"] = int(wanted["may_spread"])
    if not wanted:
        raise UsageError("nothing to change", "give --priority, --gpus, --nodes, --spread, --time or --name")
    doorbell, actor = doorbell_of(settings), settings.user
    with database_of(settings) as database:
        changed, code = for_each(
            [Target(job_id) for job_id in resolve_members(database, jobs)],
            lambda what: change(database, doorbell, what.id, wanted, actor=actor),
        )
        found = list_jobs(database, [what.id for what in changed], lease_s=settings.lease_s)
    if as_json:
        print_json("jobs", found)
    else:
        for job in found:
            say(f"job {job['id']} is {job['state']}: priority {job['priority']}, devices {job['size']}")
    return code
