"""The front of the queue: as many of the waiting jobs as a plan needs, however many there are.

Waiting jobs of one state, user and priority are a *line*: in every plan the one that was submitted first comes first
(`scheduling/order.py`: ageing and fair share move a line against others, never a job within its line). So it is enough
to read the first few of each line, as long as the plan does not look at all that was read of one
(`Plan.went_beyond`). Each line is a range of one index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .statements import AnyConnection, Row, rows
from .states import WAITING_JOBS

MAX_LINES = 64  # more of them are read as a whole: each takes a statement

_Line = tuple[str, str, int]  # state, user, priority
_OF_LINE = "state = :state AND jobs.user = :user AND priority = :priority ORDER BY submitted_at, id LIMIT :length"
_NEXT_LINE = (
    "SELECT jobs.user, priority FROM jobs WHERE state = :state AND (jobs.user, priority) > (:user, :priority) "
    "ORDER BY jobs.user, priority LIMIT 1"
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
    for number, (state, user, priority) in enumerate(_lines(connection)):
        if number == MAX_LINES:
            return read_all(connection, columns)
        line = rows(connection, select + _OF_LINE, state=state, user=user, priority=priority, length=length)
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


def _lines(connection: AnyConnection) -> Iterator[_Line]:
    """All lines: from each the index leads to the next."""
    for state in WAITING_JOBS:
        user, priority = "", -1
        while found := rows(connection, _NEXT_LINE, state=state, user=user, priority=priority):
            user, priority = found[0]["user"], found[0]["priority"]
            yield state, user, priority
