"""The front of the queue: as many of the waiting jobs as a plan needs, however many there are.

Waiting jobs of one state, user and priority are a *line*: in every plan the one that was submitted first comes first
(`scheduling/order.py`: ageing and fair share move a line against others, never a job within its line). So it is enough
to read the first few of each line, as long as the plan does not look at all that was read of one
(`Plan.went_beyond`). Each line is a range of one index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, select, tuple_

from .states import WAITING_JOBS
from .tables import jobs

MAX_LINES = 64  # more of them are read as a whole: each takes a statement

_Line = tuple[str, str, int]  # state, user, priority
_OF_LINE = (
    jobs.c.state == bindparam("state"),
    jobs.c.user == bindparam("user"),
    jobs.c.priority == bindparam("priority"),
)
_NEXT_LINE = (
    select(jobs.c.user, jobs.c.priority)
    .where(
        jobs.c.state == bindparam("state"),
        tuple_(jobs.c.user, jobs.c.priority) > tuple_(bindparam("user"), bindparam("priority")),
    )
    .order_by(jobs.c.user, jobs.c.priority)
    .limit(1)
)


@dataclass(frozen=True)
class Front:
    """Rows of waiting jobs; `last_ids` are the last that were read of each line that may go on."""

    rows: Sequence[RowMapping]
    last_ids: frozenset[int] = frozenset()


def read_front(
    connection: Connection, columns: Sequence[ColumnElement[Any]], length: int, also: Collection[int] = ()
) -> Front:
    """The first `length` jobs of each line.

    Args:
        also: jobs that are read wherever they stand.
    """
    head = select(*columns).where(*_OF_LINE).order_by(jobs.c.submitted_at, jobs.c.id).limit(bindparam("length"))
    found: dict[int, RowMapping] = {}
    last_ids = set()
    for number, (state, user, priority) in enumerate(_lines(connection)):
        if number == MAX_LINES:
            return read_all(connection, columns)
        of_line = {"state": state, "user": user, "priority": priority, "length": length}
        rows = connection.execute(head, of_line).mappings().all()
        found.update((row["id"], row) for row in rows)
        if len(rows) == length:
            last_ids.add(rows[-1]["id"])
    if missing := [job_id for job_id in also if job_id not in found]:
        waiting = select(*columns).where(jobs.c.id.in_(missing), jobs.c.state.in_(WAITING_JOBS))
        found.update((row["id"], row) for row in connection.execute(waiting).mappings())
    return Front(list(found.values()), frozenset(last_ids))


def read_all(connection: Connection, columns: Sequence[ColumnElement[Any]]) -> Front:
    """All that wait."""
    return Front(connection.execute(select(*columns).where(jobs.c.state.in_(WAITING_JOBS))).mappings().all())


def _lines(connection: Connection) -> Iterator[_Line]:
    """All lines: from each the index leads to the next."""
    for state in WAITING_JOBS:
        user, priority = "", -1
        while row := connection.execute(_NEXT_LINE, {"state": state, "user": user, "priority": priority}).first():
            user, priority = row.user, row.priority
            yield state, user, priority
