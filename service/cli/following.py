"""Following jobs on the terminal: log lines as they come, a bar while one runs, one line when it has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dljobs.service.database import Database
from dljobs.service.reports import advice_for
from dljobs.service.states import JobState
from dljobs.service.waiting import Poll, follow, unfinished, wait_for

from .output import line_writer, say
from .wording import describe_end, show_line

Json = dict[str, Any]

MOST_TOLD = 20  # how each of them ended


def follow_job(
    database: Database,
    job: Json,
    *,
    lease_s: float,
    bar: bool,
    rank: int | None = None,
    tail: int | None = None,
    num_ranks: int = 1,
) -> Json:
    """Print the job's log until it has ended; returns the Job as it is then.

    Raises:
        NotFinished: Ctrl-C; the job goes on.
    """
    run = None
    with _going_on([job["id"]]), line_writer(bar=bar) as writer:
        for glimpse in follow(database, job["id"], lease_s=lease_s, poll=Poll(), rank=rank, tail=tail):
            job = glimpse.job
            for number, lines in _by_run(glimpse.lines):
                if run is not None and number != run:
                    say(f"-- run {number} of job {job['id']} --")
                run = number
                writer.write([show_line(line, num_ranks) for line in lines])
            writer.progress(job)
    return job


def wait_until_ended(
    database: Database, job_ids: Sequence[int], *, lease_s: float, timeout_s: float | None = None
) -> list[Json]:
    """Wait until these jobs have ended, and say how; returns them as they are then.

    Raises:
        NotFinished: Ctrl-C or the timeout; the jobs go on.
    """
    with _going_on(job_ids):
        ended = wait_for(database, job_ids, lease_s=lease_s, poll=Poll(timeout_s))
    say_ends(database, ended)
    return ended


def say_ends(database: Database, ended: Sequence[Json]) -> None:
    """Say how jobs ended and, where an error tells, what to do about it; of many only the first that went wrong."""
    told = ended
    if len(ended) > MOST_TOLD:
        told = [job for job in ended if job["state"] != JobState.SUCCEEDED and job["failure_class"] != "pruned"]
    advice = advice_for(database, [job["id"] for job in told[:MOST_TOLD] if job["state"] == JobState.FAILED])
    for job in told[:MOST_TOLD]:
        say(describe_end(job))
        if job["id"] in advice:
            say(f"hint: {advice[job['id']]}")
    if len(ended) > MOST_TOLD:
        counts = Counter("pruned" if job["failure_class"] == "pruned" else job["state"] for job in ended)
        say(f"{len(ended)} jobs: " + ", ".join(f"{number} {state}" for state, number in counts.most_common()))


def first_failure(ended: Sequence[Mapping[str, Any]]) -> int:
    """The exit code of the first job that did not succeed; 0 if all did."""
    return next((job["exit_code"] for job in ended if job["exit_code"]), 0)


@contextmanager
def _going_on(job_ids: Sequence[int]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise unfinished(job_ids) from None


def _by_run(lines: Sequence[Json]) -> Iterator[tuple[int, list[Json]]]:
    group: list[Json] = []
    for line in lines:
        if group and group[0]["run"] != line["run"]:
            yield group[0]["run"], group
            group = []
        group.append(line)
    if group:
        yield group[0]["run"], group
