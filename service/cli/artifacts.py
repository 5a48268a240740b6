"""`dljobs artifacts`: what jobs have stored, and the collection of what nobody holds any more."""

from __future__ import annotations

from typing import Any

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


class _ListUnlessTold(click.Group):
    """`dljobs artifacts 12` is `dljobs artifacts list 12`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the word that was left out."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListUnlessTold)
def artifacts() -> None:
    """List what a job has stored (`dljobs artifacts ID` does), and collect garbage.

    \b
    Examples:
      dljobs artifacts @
      dljobs artifacts gc --dry-run
    """


@artifacts.command("list")
@job_argument
@json_option
@click.pass_obj
def list_(settings: Settings, *, job: str, as_json: bool) -> None:
    """List what a job has stored: weights, checkpoints, evaluations. `*`: the best when it was stored.

    \b
    Examples:
      dljobs artifacts list @
      dljobs artifacts list 12 --json
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


@artifacts.command()
@click.option("--dry-run", is_flag=True, help="Delete nothing.")
@json_option
@click.pass_obj
def gc(settings: Settings, *, dry_run: bool, as_json: bool) -> None:
    """Delete what jobs that are over need not keep, unfinished uploads, and bytes that no artifact holds.

    Kept are a job's last two checkpoints, the best one, every Nth epoch's (`--set keep_checkpoints_every=N`), and those
    that jobs in the queue begin with; of weights all while they are small, else the last, the best and every Nth
    (`keep_every`). Runs do so as they go on; workers collect uploads and bytes every ten minutes. It is safe at any
    time, beside runs that store and read. SQLite's file stays as large as it is: the room in it is used again.

    \b
    Examples:
      dljobs artifacts gc --dry-run
      dljobs artifacts gc
    """
    from dljobs.service.reports import collect_garbage

    with database_of(settings) as database:
        found = collect_garbage(database, dry_run=dry_run)
    if as_json:
        print_json("garbage", found)
    else:
        print_lines(_describe(found))


def _describe(found: dict[str, Any]) -> list[str]:
    stock = found["stock"]
    verb = "would delete" if found["dry_run"] else "deleted"
    uploads = f", {_some(found['num_uploads'], 'unfinished upload')}" if found["num_uploads"] else ""
    holds = f"{_some(stock['num_artifacts'], 'artifact')} of {show_bytes(stock['artifact_bytes'])}"
    unkept = f", {_some(found['num_artifacts'], 'artifact')} that need not be kept" if found["num_artifacts"] else ""
    return [
        f"{verb} {_some(found['num_blobs'], 'blob')} with {show_bytes(found['size_bytes'])}{uploads}{unkept}",
        f"the store holds {holds} in {_some(stock['num_blobs'], 'blob')} with {show_bytes(stock['blob_bytes'])}",
    ]


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
