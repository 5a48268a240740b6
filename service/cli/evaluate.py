"""`dljobs eval`."""

from __future__ import annotations

from typing import Any

import click

from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of, resolve_ids
from .options import checkpoint_option, job_argument, json_option
from .output import print_fields, print_json, print_lines, say, show_number
from .table import Column, print_table

Json = dict[str, Any]


@click.command("eval")
@job_argument
@checkpoint_option
@click.option("--data", metavar="NAME", help="Measure on another dataset.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Here, that is.")
@click.option("--queue", is_flag=True, help="As a job on a worker; no torch is needed here.")
@click.option("-w", "--wait", is_flag=True, help="With --queue: wait, and print the result.")
@json_option
@click.pass_obj
def evaluate(
    settings: Settings,
    /,
    *,
    job: str,
    checkpoint: str,
    data: str | None,
    device: str,
    queue: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Load the weights of a job from the store and measure loss and accuracy, of each class too.

    \b
    Examples:
      dljobs eval @
      dljobs eval 12 --checkpoint last --json
      dljobs eval 12 --queue --wait
    """
    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        if queue:
            return _queue(settings, job_id, checkpoint=checkpoint, data=data, wait=wait, as_json=as_json)
        from dljobs.service.evaluation import evaluate_here

        found = evaluate_here(database, settings, job_id, which=checkpoint, data=data, device=device)
    if as_json:
        print_json("evaluation", found)
    else:
        artifact = found["artifact"]
        say(f"{artifact['name']} of job {job_id}, run {artifact['run']}, epoch {artifact['epoch']}, on {found['data']}")
        _print_result(found["result"])
    return 0


def _queue(settings: Settings, job_id: int, *, checkpoint: str, data: str | None, wait: bool, as_json: bool) -> int:
    from dljobs.service.evaluation import evaluate_on_worker
    from dljobs.service.reports import list_jobs

    from .following import wait_until_ended

    with database_of(settings) as database:
        submitted = evaluate_on_worker(database, doorbell_of(settings), settings, job_id, which=checkpoint, data=data)
        for warning in submitted.warnings:
            say(f"warning: {warning}")
        found = list_jobs(database, [submitted.job_id], lease_s=settings.lease_s)
        if wait:
            found = wait_until_ended(database, found, lease_s=settings.lease_s)
    if as_json:
        print_json("jobs", found)
    elif wait:
        _print_result(found[0]["result"] or {})
    else:
        print_lines([f"job {submitted.job_id} submitted: evaluation of job {job_id}"])
    return found[0]["exit_code"] or 0


def _print_result(result: Json) -> None:
    numbers = {name: show_number(value) for name, value in result.items() if isinstance(value, int | float)}
    if "seconds" in numbers:
        numbers["seconds"] = show_duration(result["seconds"])
    print_fields(numbers)
    per_class = result.get("per_class")
    if per_class:
        print_lines([""])
        rows = [[str(name), show_number(value)] for name, value in per_class.items()]
        print_table((Column("class"), Column("accuracy", right=True)), rows)
