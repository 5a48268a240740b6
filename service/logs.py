"""Logs: what the ranks of a run and its supervisor wrote, line by line, in the order in which it arrived."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, insert, select

from .clock import now
from .tables import logs

MAX_LINE_LENGTH = 8192


def add_lines(connection: Connection, run_id: int, lines: Sequence[tuple[int | None, str]]) -> None:
    """Insert (rank, line) pairs; rank None is the supervisor. Call it after `runs.fenced_update`."""
    if lines:
        rows = [{"run_id": run_id, "rank": rank, "line": line} for rank, line in lines]
        connection.execute(insert(logs).values(at=now()), rows)


def list_lines(
    connection: Connection,
    run_ids: Sequence[int],
    *,
    rank: int | None = None,
    after_id: int = 0,
    tail: int | None = None,
    limit: int | None = None,
) -> list[RowMapping]:
    """Lines of these runs after line `after_id`, oldest first; only the last `tail` or the first `limit` of them."""
    query = select(logs).where(logs.c.run_id.in_(run_ids), logs.c.id > after_id)
    if rank is not None:
        query = query.where(logs.c.rank == rank)
    if tail is None:
        return list(connection.execute(query.order_by(logs.c.id).limit(limit)).mappings())
    return list(reversed(connection.execute(query.order_by(logs.c.id.desc()).limit(tail)).mappings().all()))
