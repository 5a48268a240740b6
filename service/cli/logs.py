"""`dljobs logs`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import answer, database_of, resolve_ids
from .options import job_argument, json_option
from .output import print_json, print_lines, say
from .wording import show_line

if TYPE_CHECKING:
    from dljobs.service.statements import AnyDatabase, Row

Json = dict[str, Any]


@click.command()
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("-n", "tail", metavar="N", type=click.IntRange(min=0), help="Only the last N lines of what is there.")
@click.option("--rank", metavar="N", type=click.IntRange(min=0), help="Only what this rank wrote.")
@click.option("--run", metavar="N", type=click.IntRange(min=1), help="Only this run; else all, in order.")
@json_option
@click.pass_obj
def logs(
    settings: Settings,
    *,
    job: str,
    follow: bool,
    tail: int | None,
    rank: int | None,
    run: int | None,
    as_json: bool,
) -> None:
    """Print what the ranks of a job wrote to stdout and stderr, of all its runs in order.

    Where several ranks write, each line begins with its rank (on several nodes: `[node/rank]`); `[worker]` is the
    worker's own word.

    \b
    Examples:
      dljobs logs @ --follow
      dljobs logs 12 -n 50 --rank 0
    """
    if follow and (as_json or run is not None):
        raise UsageError("--follow goes with neither --json nor --run", "leave one of them out")
    if follow:
        _follow(settings, job, rank=rank, tail=tail)
        return
    found, lines = answer(settings, partial(_read, text=job, run=run, rank=rank, tail=tail))
    if as_json:
        print_json("logs", lines)
        return
    print_lines([show_line(line, _num_ranks(found, rank)) for line in lines])
    job_id = found["id"]
    if not found["num_runs"]:
        say(f"job {job_id} has not started yet: `dljobs why {job_id}` says why")
    elif rank is not None and not lines and tail != 0:
        say(f"rank {rank} of job {job_id} wrote nothing{'' if run is None else f' in run {run}'}")


def _read(
    database: AnyDatabase, *, text: str, run: int | None, rank: int | None, tail: int | None
) -> tuple[Row, list[Json]]:
    """The row of the job that is meant, as far as its log matters to it, and its lines."""
    from dljobs.service.log_report import list_lines
    from dljobs.service.names import resolve_job
    from dljobs.service.statements import rows

    with database.read() as connection:
        job_id = resolve_job(connection, text)
        [found] = rows(connection, "SELECT id, strategy, num_devices, num_runs FROM jobs WHERE id = :id", id=job_id)
    return found, list_lines(database, job_id, run=run, rank=rank, tail=tail)


def _num_ranks(job: Row, rank: int | None) -> int:
    """How many ranks may have written what is shown."""
    return int(job["num_devices"]) if job["strategy"] == "ddp" and rank is None else 1


def _follow(settings: Settings, text: str, *, rank: int | None, tail: int | None) -> None:
    from dljobs.service.reports import list_jobs

    from .following import follow_job

    with database_of(settings) as database:
        job_ids, lease_s = resolve_ids(database, (text,)), settings.lease_s
        [found] = list_jobs(database, job_ids, lease_s=lease_s)
        num_ranks = _num_ranks(found, rank)
        follow_job(database, found, lease_s=lease_s, bar=False, rank=rank, tail=tail, num_ranks=num_ranks)
