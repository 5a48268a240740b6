"""`dljobs update`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, list_asked, resolve_targets
from .options import jobs_argument, json_option, to_seconds, to_size
from .output import print_json, say
from .wording import describe_set


@click.command()
@jobs_argument
@click.option("--priority", metavar="0..100", type=int, help="Higher starts earlier.")
@click.option("--gpus", "size", metavar="N", callback=to_size, help="Devices: 4, what is free of 2-8, or 0.25 of one.")
@click.option("--nodes", "num_nodes", metavar="K", type=int, help="On exactly so many nodes, in equal parts.")
@click.option("--spread/--no-spread", "may_spread", default=None, help="Over the fewest nodes that fit, if none does.")
@click.option("--time", "time_limit_s", metavar="DURATION", callback=to_seconds, help="Stop it after: 90, 15m, 2h.")
@click.option("--preemptible/--no-preemptible", "is_preemptible", default=None, help="It may make room for others.")
@click.option("--name", help="What to call the job.")
@click.option("--max-parallel", metavar="N", type=int, help="Of a set: at most so many of its jobs at a time.")
@json_option
@click.pass_obj
def update(settings: Settings, /, *, jobs: tuple[str, ...], as_json: bool, **changes: Any) -> int:
    """Change jobs that wait; of a set all that wait, or none.

    \b
    Examples:
      dljobs update 12 --priority 60
      dljobs update @ --gpus 2-4 --time 1h
      dljobs update @ --spread
      dljobs update s3 --max-parallel 8 --preemptible
    """
    from dljobs.service import control, set_control

    wanted = {name: int(value) if isinstance(value, bool) else value for name, value in changes.items()}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if not wanted:
        flags = "--priority, --gpus, --nodes, --spread, --time, --preemptible, --name or --max-parallel"
        raise UsageError("nothing to change", f"give {flags}")
    doorbell, actor = doorbell_of(settings), settings.user
    with database_of(settings) as database:
        changed, code = for_each(
            resolve_targets(database, jobs),
            lambda what: (set_control if what.is_set else control).update(
                database, doorbell, what.id, wanted, actor=actor
            ),
        )
        found = list_asked(database, changed, lease_s=settings.lease_s, with_members=as_json)
    if as_json:
        print_json("jobs", found)
        return code
    for each in found:
        if "counts" in each:
            most = "" if each["max_parallel"] is None else f"; at most {each['max_parallel']} at a time"
            say(describe_set(each) + most)
        else:
            say(f"job {each['id']} is {each['state']}: priority {each['priority']}, devices {each['size']}")
    return code
