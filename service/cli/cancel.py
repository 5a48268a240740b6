"""`dljobs cancel`."""

from __future__ import annotations

import click

from dljobs.errors import ExitCode
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, resolve_ids
from .options import jobs_argument, json_option
from .output import print_json, say


@click.command()
@jobs_argument
@click.option("-w", "--wait", is_flag=True, help="Wait until they have ended.")
@json_option
@click.pass_obj
def cancel(settings: Settings, *, jobs: tuple[str, ...], wait: bool, as_json: bool) -> int:
    """End jobs: at once where they wait; where they run, the ranks are asked first and killed after the grace time.

    \b
    Examples:
      dljobs cancel @
      dljobs cancel 12 13 --wait
    """
    from dljobs.service.control import cancel as ask_for_end
    from dljobs.service.reports import list_jobs

    from .following import wait_until_ended

    lease_s, actor, doorbell = settings.lease_s, settings.user, doorbell_of(settings)
    with database_of(settings) as database:
        job_ids = resolve_ids(database, jobs)
        asked, code = for_each(job_ids, lambda job_id: ask_for_end(database, doorbell, job_id, actor=actor))
        found = list_jobs(database, asked, lease_s=lease_s)
        if wait and found:
            found = wait_until_ended(database, found, lease_s=lease_s)
            if any(job["exit_code"] != ExitCode.CANCELLED for job in found):
                code = code or int(ExitCode.ERROR)  # it ended in another way before it could be cancelled
        elif not as_json:
            for job in found:
                say(f"job {job['id']} {'is asked to end' if job['exit_code'] is None else job['state']}")
    if as_json:
        print_json("jobs", found)
    return code
