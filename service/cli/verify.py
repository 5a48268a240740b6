"""`dljobs verify`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.errors import ExitCode
from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of, warn
from .options import json_option, timeout_option
from .output import print_json, print_lines, say, show_number


@click.command()
@click.argument("job", metavar="ID[:CHECKPOINT]")
@click.option("--steps", metavar="K", type=click.IntRange(1), help="Replay at most so many, but as many as possible.")
@timeout_option
@json_option
@click.pass_obj
def verify(settings: Settings, *, job: str, steps: int | None, timeout: float | None, as_json: bool) -> int:
    """Train again from a checkpoint to weights that were stored later, compare, and record the verdict.

    It runs as a job of its own on as many devices, and waits for it. Unless told otherwise it goes from the newest
    checkpoint that something was stored after to what was stored next. Exit codes: 0 the same bit by bit, 1 not the
    same; else those of `dljobs wait`. `dljobs show` lists the verdicts.

    \b
    Examples:
      dljobs verify @
      dljobs verify 12:step-400 --steps 1000
    """
    from dljobs.service.reports import list_verifications
    from dljobs.service.submission import enqueue
    from dljobs.service.verifications import prepare_verification

    from .following import first_failure, wait_until_ended

    with database_of(settings) as database:
        new = prepare_verification(database, job, steps, settings.user)
        assert new.beginning is not None
        submitted = enqueue(database, doorbell_of(settings), new)
        say(f"job {submitted.job_id} submitted: {new.name}")
        warn(settings, submitted)
        ended = wait_until_ended(database, [submitted.job_id], lease_s=settings.lease_s, timeout_s=timeout)
        if code := first_failure(ended):
            return code
        done = list_verifications(database, new.beginning.job_id)
        verdict = next(each for each in done if each["by_job_id"] == submitted.job_id)
    if as_json:
        print_json("verification", verdict)
    else:
        print_lines([describe_verdict(verdict)])
    return ExitCode.OK if verdict["is_exact"] else ExitCode.ERROR


def describe_verdict(verdict: dict[str, Any]) -> str:
    """`steps 8 to 12: the same, bit by bit`."""
    result = verdict["result"]
    if verdict["is_exact"]:
        how = "the same, bit by bit"
    else:
        num, of = result["num_different"], result["num_tensors"]
        how = f"not the same: {num} of {of} tensors differ, by {show_number(result['largest_difference'])} at most"
    others = f" ({'; '.join(result['differences'])})" if result["differences"] else ""
    return f"steps {verdict['from_step']} to {verdict['to_step']}: {how}{others}"
