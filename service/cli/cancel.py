"""`dljobs cancel`."""

from __future__ import annotations

import click

from dljobs.errors import ExitCode
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, list_asked, members_of, resolve_targets
from .options import jobs_argument, json_option
from .output import print_json, say
from .wording import describe_set


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
      dljobs cancel s3
    """
    from dljobs.service import control, set_control

    from .following import wait_until_ended

    lease_s, actor, doorbell = settings.lease_s, settings.user, doorbell_of(settings)
    with database_of(settings) as database:
        asked, code = for_each(
            resolve_targets(database, jobs),
            lambda what: (set_control if what.is_set else control).cancel(database, doorbell, what.id, actor=actor),
        )
        if wait and asked:
            found = wait_until_ended(database, members_of(database, asked), lease_s=lease_s)
            if any(job["exit_code"] != ExitCode.CANCELLED for job in found):
                code = code or int(ExitCode.ERROR)  # it ended in another way before it could be cancelled
        else:
            found = list_asked(database, asked, lease_s=lease_s, with_members=as_json)
            for each in () if as_json else found:
                if "counts" in each:
                    say(describe_set(each))
                else:
                    say(f"job {each['id']} {'is asked to end' if each['exit_code'] is None else each['state']}")
    if as_json:
        print_json("jobs", found)
    return code
