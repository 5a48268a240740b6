"""`dljobs logs`."""

from __future__ import annotations

import click

from dljobs.errors import UsageError
from dljobs.service.settings import Settings

from .opening import database_of, resolve_ids
from .options import job_argument, json_option
from .output import print_json, print_lines, say


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
    from dljobs.service.reports import list_jobs, list_lines

    from .following import follow_job, show_line

    with database_of(settings) as database:
        [job_id] = resolve_ids(database, (job,))
        lease_s = settings.lease_s
        [found] = list_jobs(database, [job_id], lease_s=lease_s)
        num_ranks = found["num_devices"] if found["strategy"] == "ddp" and rank is None else 1
        if follow:
            follow_job(database, found, lease_s=lease_s, bar=False, rank=rank, tail=tail, num_ranks=num_ranks)
            return
        lines = list_lines(database, job_id, run=run, rank=rank, tail=tail)
    if as_json:
        print_json("logs", lines)
        return
    print_lines([show_line(line, num_ranks) for line in lines])
    if not found["num_runs"]:
        say(f"job {job_id} has not started yet: `dljobs why {job_id}` says why")
    elif rank is not None and not lines and tail != 0:
        say(f"rank {rank} of job {job_id} wrote nothing{'' if run is None else f' in run {run}'}")
