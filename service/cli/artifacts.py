"""`dljobs artifacts`."""

from __future__ import annotations

import click

from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import job_argument, json_option
from .output import print_json, print_lines, show_bytes, show_moment
from .table import Column, print_table
from .wording import describe_metrics

COLUMNS = (
    Column("id", right=True),
    Column("run", right=True),
    Column("kind"),
    Column("name", kept=False),
    Column("epoch", right=True),
    Column("step", right=True),
    Column("size", right=True),
    Column("stored"),
    Column("metrics", kept=False),
)


@click.command()
@job_argument
@json_option
@click.pass_obj
def artifacts(settings: Settings, *, job: str, as_json: bool) -> None:
    """List what a job has stored: weights, checkpoints, evaluations. `*`: the best when it was stored.

    \b
    Examples:
      dljobs artifacts @
      dljobs artifacts 12 --json
    """
    from dljobs.service.reports import list_artifacts

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        found = list_artifacts(database, job_id)
    if as_json:
        print_json("artifacts", found)
    elif not found:
        print_lines([f"job {job_id} has stored nothing yet"])
    else:
        rows = [
            [
                str(each["id"]),
                str(each["run"]),
                each["kind"],
                each["name"] + (" *" if each["best"] else ""),
                str(each["epoch"]),
                str(each["step"]),
                show_bytes(each["size_bytes"]),
                show_moment(each["created_at"]),
                describe_metrics(each["metrics"]),
            ]
            for each in found
        ]
        print_table(COLUMNS, rows)
