"""`dljobs events`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import json_option
from .output import one_line, print_json, print_lines, show_moment


@click.command()
@click.argument("job", metavar="[ID]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with each new one, until Ctrl-C.")
@click.option(
    "-n", "limit", metavar="N", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many."
)
@json_option
@click.pass_obj
def events(settings: Settings, *, job: str | None, follow: bool, limit: int, as_json: bool) -> None:
    """Print what happened to a job, or to all jobs and workers: when, who, from which state to which, and why.

    With --follow and --json, each line is an envelope with the events that are new.

    \b
    Examples:
      dljobs events @
      dljobs events --follow
    """
    from dljobs.service.reports import list_events
    from dljobs.service.waiting import Poll, follow_events

    with database_of(settings) as database:
        job_id = resolve_ids(database, (job,))[0] if job else None
        if not follow:
            _print(list_events(database, job_id=job_id, limit=limit), as_json=as_json)
            return
        for new in follow_events(database, job_id=job_id, limit=limit, poll=Poll()):
            _print(new, as_json=as_json)


def _print(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json("events", found)
    else:
        print_lines([_line(event) for event in found])


def _line(event: dict[str, Any]) -> str:
    subject = (
        f"job {event['job_id']}" if event["job_id"] else f"worker {event['worker_id']}" if event["worker_id"] else ""
    )
    states = " -> ".join(state for state in (event["from_state"], event["to_state"]) if state)
    what = f"{event['kind']} {states}".strip()
    return one_line(f"{show_moment(event['at'])}  {subject:<10}  {event['actor']:<12}  {what:<28}  {event['reason']}")
