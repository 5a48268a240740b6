"""Logs: what the ranks of a run and its supervisor wrote, line by line, in the order in which it arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .statements import AnyConnection, Row, rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_LINE_LENGTH = 8192


def add_lines(connection: Connection, run_id: int, lines: Sequence[tuple[int | None, str]]) -> None:
    """Insert (rank, line) pairs; rank None is the supervisor. Call it after `runs.fenced_update`."""
    from sqlalchemy import insert  # those who only read do without

    from .clock import now
    from .tables import logs

    if lines:
        new = [{"run_id": run_id, "rank": rank, "line": line} for rank, line in lines]
        connection.execute(insert(logs).values(at=now()), new)


def list_lines(
    connection: AnyConnection,
    run_ids: Sequence[int],
    *,
    rank: int | None = None,
    after_id: int = 0,
    tail: int | None = None,
    limit: int | None = None,
) -> list[Row]:
    """Lines of these runs after line `after_id`, oldest first; only the last `tail` or the first `limit` of them."""
    wanted: dict[str, Any] = {"run_ids": tuple(run_ids), "after_id": after_id}
    query = "SELECT * FROM logs WHERE run_id IN :run_ids AND id > :after_id"
    if rank is not None:
        query, wanted["rank"] = query + " AND rank = :rank", rank
    query += " ORDER BY id" if tail is None else " ORDER BY id DESC"
    if (most := limit if tail is None else tail) is not None:
        query, wanted["most"] = query + " LIMIT :most", most
    found = rows(connection, query, **wanted)
    return found if tail is None else found[::-1]


def nodes_by_rank(connection: AnyConnection, run_ids: Sequence[int]) -> dict[int, list[str]]:
    """Of each of these runs that is over several nodes: the node of rank 0, of rank 1, and so on."""
    found: dict[int, list[str]] = {}
    for row in rows(
        connection,
        "SELECT run_parts.run_id, workers.node FROM run_parts "
        # A device each, and a rank on each device.
        "JOIN leases ON leases.run_id = run_parts.run_id AND leases.node_rank = run_parts.node_rank "
        "JOIN workers ON workers.id = run_parts.worker_id "
        "WHERE run_parts.run_id IN :run_ids ORDER BY run_parts.run_id, run_parts.node_rank",
        run_ids=tuple(run_ids),
    ):
        found.setdefault(row["run_id"], []).append(row["node"])
    return {run_id: nodes for run_id, nodes in found.items() if len(set(nodes)) > 1}
