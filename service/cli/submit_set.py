"""`dljobs submit --array` and `--sweep`: what `submit` does for a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .opening import database_of, doorbell_of
from .output import print_json, print_lines, say
from .wording import describe_work

if TYPE_CHECKING:
    from dljobs.service.sets import NewSet
    from dljobs.service.settings import Settings
    from dljobs.service.submission import Request
    from dljobs.service.variation import Variation

SHOWN_POINTS = 5


def submit_set(
    settings: Settings,
    request: Request,
    variation: Variation,
    *,
    as_json: bool,
    parsable: bool,
    wait: bool,
    dry_run: bool,
) -> int:
    """Insert a set, say so, and wait for its end where that is wanted; returns the exit code."""
    from dljobs.service.names import Target, member_ids
    from dljobs.service.set_reports import list_sets
    from dljobs.service.set_submission import enqueue_set, prepare_set

    from .following import first_failure, wait_until_ended

    new = prepare_set(request, variation, settings.user)
    if dry_run:
        _print_dry_run(new, as_json=as_json)
        return 0
    code = 0
    with database_of(settings) as database:
        submitted = enqueue_set(database, doorbell_of(settings), settings, new)
        if parsable:
            print_lines([f"s{submitted.set_id}"])
        elif not as_json:
            verb = "submitted" if submitted.created else "was already submitted"
            print_lines([f"s{submitted.set_id} {verb}: {_describe(new)}"])
        for warning in submitted.warnings:
            say(f"warning: {warning}")
        if wait:
            with database.read() as connection:
                job_ids = member_ids(connection, [Target(submitted.set_id, is_set=True)])
            ended = wait_until_ended(database, job_ids, lease_s=settings.lease_s)
            # That trials are pruned is what was asked for.
            code = first_failure([job for job in ended if job["failure_class"] != "pruned"])
        if as_json:
            [shown] = list_sets(database, [submitted.set_id])
            about = {"created": submitted.created, "warnings": list(submitted.warnings), "dry_run": False}
            print_json("set_submission", {**about, "set": shown, "points": None})
    return code


def _describe(new: NewSet) -> str:
    first = new.members[0].job
    axes = " × ".join(f"{axis.name} ({len(axis.values)})" for axis in new.axes)
    limit = "" if new.max_parallel is None else f", {new.max_parallel} at a time"
    work = describe_work(vars(first.spec), str(first.size), first.num_nodes)
    return f"{len(new.members)} jobs over {axes}{limit}; each {work}"


def _print_dry_run(new: NewSet, *, as_json: bool) -> None:
    from dljobs.service.sets import describe_point

    points = [dict(member.point) for member in new.members]
    if as_json:
        about = {"created": False, "warnings": list(new.warnings), "dry_run": True}
        print_json("set_submission", {**about, "set": None, "points": points})
        return
    say(f"would submit {_describe(new)}; nothing was written")
    lines = [f"{member.index}  {describe_point(member.point)}" for member in new.members[:SHOWN_POINTS]]
    more = len(points) - len(lines)
    print_lines([*lines, *([f"… and {more} more"] if more else [])])
    for warning in new.warnings:
        say(f"warning: {warning}")
