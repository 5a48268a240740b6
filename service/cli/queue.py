"""`dljobs retry`, `hold` and `release`: what puts a job in the queue, keeps it there, or lets it go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from dljobs.service.database import Database
from dljobs.service.settings import Settings

from .each import for_each
from .opening import database_of, doorbell_of, list_asked, resolve_targets
from .options import jobs_argument, json_option
from .output import print_json, say
from .wording import describe_set

if TYPE_CHECKING:
    from dljobs.service.names import Target


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
    from dljobs.service import control, set_control

    doorbell, actor = doorbell_of(settings), settings.user
    return _change(
        settings,
        jobs,
        lambda db, what: (set_control if what.is_set else control).retry(
            db, doorbell, what.id, actor=actor, fresh=fresh
        ),
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
      dljobs hold 12 13 s3
    """
    from dljobs.service import control, set_control

    actor = settings.user
    return _change(
        settings,
        jobs,
        lambda db, what: (set_control if what.is_set else control).hold(db, what.id, actor=actor),
        as_json=as_json,
    )


@click.command()
@jobs_argument
@json_option
@click.pass_obj
def release(settings: Settings, *, jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held jobs go.

    \b
    Example:
      dljobs release 12 13 s3
    """
    from dljobs.service import control, set_control

    doorbell, actor = doorbell_of(settings), settings.user
    return _change(
        settings,
        jobs,
        lambda db, what: (set_control if what.is_set else control).release(db, doorbell, what.id, actor=actor),
        as_json=as_json,
    )


def _change(
    settings: Settings, texts: Sequence[str], ask: Callable[[Database, Target], bool | None], *, as_json: bool
) -> int:
    with database_of(settings) as database:
        changed, code = for_each(resolve_targets(database, texts), lambda target: ask(database, target))
        found = list_asked(database, changed, lease_s=settings.lease_s, with_members=as_json)
    if as_json:
        print_json("jobs", found)
    else:
        for each in found:
            say(describe_set(each) if "counts" in each else f"job {each['id']} is {each['state']}")
    return code
