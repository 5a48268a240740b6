"""`dljobs retry`, `hold` and `release`: what puts a job in the queue, keeps it there, or lets it go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from dljobs.service.database import Database
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, resolve_ids
from .options import jobs_argument, json_option
from .output import print_json, say


@click.command()
@jobs_argument
@click.option("--fresh", is_flag=True, help="From the beginning, not from the last checkpoint.")
@json_option
@click.pass_obj
def retry(settings: Settings, *, jobs: tuple[str, ...], fresh: bool, as_json: bool) -> int:
    """Queue failed or cancelled jobs again; they continue from their last checkpoint.

    \b
    Examples:
      dljobs retry @
      dljobs retry 12 --fresh
    """
    from dljobs.service.control import retry as queue_again

    doorbell, actor = doorbell_of(settings), settings.user
    return _change(
        settings,
        jobs,
        lambda db, job_id: queue_again(db, doorbell, job_id, actor=actor, fresh=fresh),
        as_json=as_json,
    )


@click.command()
@jobs_argument
@json_option
@click.pass_obj
def hold(settings: Settings, *, jobs: tuple[str, ...], as_json: bool) -> int:
    """Keep queued jobs from starting until they are released.

    \b
    Example:
      dljobs hold 12 13
    """
    from dljobs.service.control import hold as keep

    actor = settings.user
    return _change(settings, jobs, lambda db, job_id: keep(db, job_id, actor=actor), as_json=as_json)


@click.command()
@jobs_argument
@json_option
@click.pass_obj
def release(settings: Settings, *, jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held jobs go.

    \b
    Example:
      dljobs release 12 13
    """
    from dljobs.service.control import release as let_go

    doorbell, actor = doorbell_of(settings), settings.user
    return _change(settings, jobs, lambda db, job_id: let_go(db, doorbell, job_id, actor=actor), as_json=as_json)


def _change(
    settings: Settings, texts: Sequence[str], ask: Callable[[Database, int], bool | None], *, as_json: bool
) -> int:
    from dljobs.service.reports import list_jobs

    with database_of(settings) as database:
        changed, code = for_each(resolve_ids(database, tuple(texts)), lambda job_id: ask(database, job_id))
        found = list_jobs(database, changed, lease_s=settings.lease_s)
    if as_json:
        print_json("jobs", found)
    else:
        for job in found:
            say(f"job {job['id']} is {job['state']}")
    return code
