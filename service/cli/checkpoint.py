"""`dljobs checkpoint`."""

from __future__ import annotations

import click

from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of, resolve_ids
from .options import job_argument, json_option, timeout_option
from .output import print_json, print_lines, say, show_bytes


@click.command()
@job_argument
@timeout_option
@json_option
@click.pass_obj
def checkpoint(settings: Settings, *, job: str, timeout: float | None, as_json: bool) -> None:
    """Have a job that trains save its state now, and wait until it is stored; the job goes on.

    Its checkpoint stays until two newer ones are there. `dljobs resume` and `submit --resume-from` begin with it.

    \b
    Examples:
      dljobs checkpoint @
      dljobs checkpoint 12 --timeout 5m
    """
    from dljobs.service import control
    from dljobs.service.waiting import Poll, wait_for_checkpoint

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        doorbell = doorbell_of(settings)
        run, is_rung = control.checkpoint(database, doorbell, job_id, actor=settings.user)
        if not is_rung:
            say(f"warning: {doorbell.problem}: job {job_id} hears of it when its worker next looks at the database")
        found = wait_for_checkpoint(database, run, poll=Poll(timeout))
    if as_json:
        print_json("checkpoint", found)
    else:
        size = show_bytes(found["size_bytes"])
        print_lines([f"job {job_id} is saved after step {found['step']}, epoch {found['epoch']} ({size})"])
