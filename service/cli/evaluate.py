"""`dljobs eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dljobs.errors import UsageError
from dljobs.service.durations import show_duration
from dljobs.service.settings import Settings

from .opening import database_of, doorbell_of, resolve_ids, warn
from .options import checkpoint_option, device_option, job_argument, json_option
from .output import print_fields, print_json, print_lines, say, show_number
from .table import Column, print_table
from .wording import describe_end

Json = dict[str, Any]
# A table of more classes would be wider than a terminal: then what is confused most often is listed.
MAX_TABLE = 20
MAX_PAIRS = 20


@click.command("eval")
@job_argument
@checkpoint_option
@click.option("--data", metavar="NAME", help="Measure on another dataset.")
@device_option
@click.option("--confusion", "with_table", is_flag=True, help="Print the confusion matrix too.")
@click.option(
    "--plot",
    "picture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the confusion matrix; for values, predicted ones over true ones.",
)
@click.option("--queue", is_flag=True, help="As a job on a worker; no torch is needed here.")
@click.option("-w", "--wait", is_flag=True, help="With --queue: wait, and print the result.")
@json_option
@click.pass_obj
def evaluate(
    settings: Settings,
    /,
    *,
    queue: bool,
    wait: bool,
    with_table: bool,
    picture: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Load the weights of a job from the store and measure them: loss, accuracy of each class, errors of values.

    What it finds is kept as an evaluation of these weights: `dljobs show` lists them.

    \b
    Examples:
      dljobs eval @
      dljobs eval @ --confusion --plot confusion.png
      dljobs eval 12 --checkpoint last --json
      dljobs eval 12 --queue --wait
    """
    if picture is not None:
        from dljobs.service.figures import check_target

        check_target(picture)
    if queue and not wait and (with_table or picture):
        raise UsageError("a picture or a confusion matrix is there only at the end", "add --wait")
    if with_table:
        from dljobs.service.evaluation import require_classes

        with database_of(settings) as database:
            require_classes(database, *resolve_ids(database, (options["job"],)))
    found = _on_worker(settings, wait=wait, **options) if queue else _here(settings, **options)
    if as_json:
        print_json(found.noun, found.value)
    elif found.result is None:
        print_lines([found.title])
    else:
        say(found.title)
        _print_result(found.result, with_table=with_table)
    if picture is not None and found.result is not None:
        _draw(found.result, found.title, picture)
    return found.exit_code


@dataclass(frozen=True)
class Found:
    """What there is to tell: `noun` and `value` for JSON, and the result, None where there is none (yet)."""

    noun: str
    value: Any
    title: str
    result: Json | None
    exit_code: int = 0


def _here(settings: Settings, *, job: str, checkpoint: str, data: str | None, device: str) -> Found:
    from dljobs.service.evaluation import evaluate_here

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        found = evaluate_here(database, settings, job_id, which=checkpoint, data=data, device=device)
    artifact = found["artifact"]
    title = f"{artifact['name']} of job {job_id}, run {artifact['run']}, epoch {artifact['epoch']}, on {found['data']}"
    return Found("evaluation", found, title, found["result"])


def _on_worker(settings: Settings, *, job: str, checkpoint: str, data: str | None, wait: bool, **_device: str) -> Found:
    from dljobs.service.evaluation import evaluate_on_worker, stored_result
    from dljobs.service.reports import list_jobs

    from .following import wait_until_ended

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        submitted = evaluate_on_worker(database, doorbell_of(settings), settings, job_id, which=checkpoint, data=data)
        warn(settings, submitted)
        title = f"job {submitted.job_id} submitted: evaluation of job {job_id}"
        if not wait:
            return Found("jobs", list_jobs(database, [submitted.job_id], lease_s=settings.lease_s), title, None)
        found = wait_until_ended(database, [submitted.job_id], lease_s=settings.lease_s)
        [ended] = found
        if ended["exit_code"]:
            return Found("jobs", found, describe_end(ended), None, ended["exit_code"])
        result = stored_result(database, submitted.job_id)
    return Found("jobs", found, f"weights of job {job_id}, on {ended['data']}", result)


def _print_result(result: Json, *, with_table: bool) -> None:
    numbers = {name: show_number(value) for name, value in result.items() if isinstance(value, int | float)}
    if "seconds" in numbers:
        numbers["seconds"] = show_duration(result["seconds"])
    print_fields(numbers)
    per_class = result.get("per_class")
    if per_class:
        print_lines([""])
        rows = [[str(name), show_number(value)] for name, value in per_class.items()]
        print_table((Column("class"), Column("accuracy", right=True)), rows)
    if with_table:
        print_lines([""])
        _print_confusion(_confusion_of(result), list(per_class or ()))


def _print_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    if len(names) <= MAX_TABLE:
        columns = [Column("true \\ predicted"), *(Column(name, right=True) for name in names)]
        # A zero says less than the room it takes.
        rows = [[name, *(str(count or "·") for count in row)] for name, row in zip(names, matrix, strict=True)]
        print_table(columns, rows)
        return
    wrong = [
        (count, names[true], names[predicted])
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    wrong.sort(key=lambda pair: -pair[0])
    rows = [[str(count), true, predicted] for count, true, predicted in wrong[:MAX_PAIRS]]
    print_table((Column("times", right=True), Column("true"), Column("predicted")), rows)


def _draw(result: Json, title: str, target: Path) -> None:
    if result.get("parity"):
        from dljobs.service.fit import parity_panel
        from dljobs.service.plots import draw_panels

        draw_panels([parity_panel(result["parity"], title)], target)
    else:
        from dljobs.service.confusion_plot import draw_confusion

        draw_confusion(_confusion_of(result), list(result["per_class"]), title, target)
    say(f"drew {target}")


def _confusion_of(result: Mapping[str, Any]) -> Sequence[Sequence[int]]:
    matrix: Sequence[Sequence[int]] | None = result.get("confusion")
    if matrix is None:
        raise UsageError("there is no confusion matrix of so many classes", "leave out --confusion and --plot")
    return matrix
