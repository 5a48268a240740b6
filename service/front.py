"""The front of the queue: as many of the waiting jobs as a plan needs, however many there are.

Waiting jobs of one state, user and priority are a *line*: in every plan the one that was submitted first comes first
(`scheduling/order.py`: ageing and fair share move a line against others, never a job within its line). So it is enough
to read the first few of each line, as long as the plan does not look at all that was read of one
(`Plan.went_beyond`). Each line is a range of one index.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .statements import AnyConnection, Row, rows
from .states import WAITING_JOBS

MAX_LINES = 64  # more of them are read as a whole: each takes a statement

_OF_LINE = "state = :state AND jobs.user = :user AND priority = :priority ORDER BY submitted_at, id LIMIT :length"
# Each user, and of each user each line, is found from the one before: a step in the index each.
_NEXT_USER = "SELECT min(jobs.user) FROM jobs WHERE jobs.state = whose.state AND jobs.user > whose.name"
_NEXT_PRIORITY = (
    "SELECT min(jobs.priority) FROM jobs "
    "WHERE jobs.state = line.state AND jobs.user = line.name AND jobs.priority > line.priority"
)
_BEFORE_ALL = " UNION ALL ".join(f"SELECT CAST('{state}' AS VARCHAR), CAST('' AS VARCHAR)" for state in WAITING_JOBS)
_LINES = (
    f"WITH RECURSIVE whose(state, name) AS ({_BEFORE_ALL} "  # noqa: S608 (constants)
    f"UNION ALL SELECT whose.state, ({_NEXT_USER}) FROM whose WHERE whose.name IS NOT NULL), "
    "line(state, name, priority) AS (SELECT whose.state, whose.name, -1 FROM whose WHERE whose.name > '' "
    f"UNION ALL SELECT line.state, line.name, ({_NEXT_PRIORITY}) FROM line WHERE line.priority IS NOT NULL) "
    "SELECT state, name, priority FROM line WHERE priority >= 0"
)


@dataclass(frozen=True)
class Front:
    """Rows of waiting jobs; `last_ids` are the last that were read of each line that may go on."""

    rows: Sequence[Row]
    last_ids: frozenset[int] = frozenset()


def read_front(connection: AnyConnection, columns: str, length: int, also: Collection[int] = ()) -> Front:
    """The first `length` jobs of each line.

    Args:
        also: jobs that are read wherever they stand.
    """
    found: dict[int, Row] = {}
    last_ids = set()
    select = f"SELECT {columns} FROM jobs WHERE "  # noqa: S608 (names of columns)
    lines = rows(connection, _LINES)
    if len(lines) > MAX_LINES:
        return read_all(connection, columns)
    for key in lines:
        of_line = {"state": key["state"], "user": key["name"], "priority": key["priority"]}
        line = rows(connection, select + _OF_LINE, **of_line, length=length)
        found.update((row["id"], row) for row in line)
        if len(line) == length:
            last_ids.add(line[-1]["id"])
    if missing := tuple(job_id for job_id in also if job_id not in found):
        waiting = rows(connection, select + "id IN :ids AND state IN :states", ids=missing, states=WAITING_JOBS)
        found.update((row["id"], row) for row in waiting)
    return Front(list(found.values()), frozenset(last_ids))


def read_all(connection: AnyConnection, columns: str) -> Front:
    """All that wait."""
    query = f"SELECT {columns} FROM jobs WHERE state IN :states"  # noqa: S608 (names of columns)
    return Front(rows(connection, query, states=WAITING_JOBS))
