"""Parts: what each worker of a run does for it. Most runs have one part; of several, the head's (node rank 0) speaks.

A run's parts stand or fall together: what ends one of them ends the run. Beyond the claim (`runs.claim`), a part goes
through `ready_at` (its files are there, and it has joined the rendezvous), `started_at` (all its ranks run) and
`ended_at` (they are gone, and all they wrote is in the database).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from .scheduling.rows import Part
from .statements import Row, rows
from .tables import run_parts, runs

HEAD = 0  # the node rank of the part that has rank 0


def add_parts(
    connection: Connection, of_runs: Mapping[int, Sequence[Part]], claimed_at: float, claimed_by: int | None
) -> None:
    """Enter the parts of new runs, of each the head's first; those of worker `claimed_by` are claimed at once."""
    new = [
        {"run_id": run_id, "node_rank": node_rank, "worker_id": part.worker_id}
        | {"claimed_at": claimed_at if part.worker_id == claimed_by else None}
        for run_id, parts in of_runs.items()
        for node_rank, part in enumerate(parts)
    ]
    connection.execute(insert(run_parts), new)


def list_parts(connection: Connection, run_id: int) -> list[Row]:
    """The parts of a run, the head's first, each with the names of its `worker` and `node`."""
    return parts_by_run(connection, [run_id]).get(run_id, [])


def parts_by_run(connection: Connection, run_ids: Sequence[int]) -> dict[int, list[Row]]:
    """As `list_parts`, of many runs."""
    query = (
        "SELECT run_parts.*, workers.name AS worker, workers.node "
        "FROM run_parts JOIN workers ON workers.id = run_parts.worker_id "
        "WHERE run_parts.run_id IN :run_ids ORDER BY run_parts.run_id, run_parts.node_rank"
    )
    found: dict[int, list[Row]] = {}
    for row in rows(connection, query, run_ids=tuple(run_ids)):
        found.setdefault(row["run_id"], []).append(row)
    return found


def write_part(connection: Connection, run_id: int, node_rank: int, **values: Any) -> None:
    """Write to the row of a part. Call it after `runs.fenced_update`, in the same transaction."""
    mine = (run_parts.c.run_id == run_id, run_parts.c.node_rank == node_rank)
    connection.execute(update(run_parts).where(*mine).values(**values))


def end_parts(connection: Connection, run_ids: Collection[int], moment: float) -> None:
    """The runs are over, and with them those of their parts that had not ended."""
    live = (run_parts.c.run_id.in_(run_ids), run_parts.c.ended_at.is_(None))
    connection.execute(update(run_parts).where(*live).values(ended_at=moment))


def ask_for_stop(connection: Connection, run_id: int, node_rank: int, why: str) -> None:
    """Let the other parts know that the whole run is to stop; the first reason stays."""
    mine = (run_parts.c.run_id == run_id, run_parts.c.node_rank == node_rank, run_parts.c.stop.is_(None))
    connection.execute(update(run_parts).where(*mine).values(stop=why))


def list_parts_of_worker(connection: Connection, worker_id: int, run_ids: Collection[int]) -> list[RowMapping]:
    """This worker's parts of these runs: run_id, token, node_rank, and the run's num_parts."""
    every = run_parts.alias()
    num_parts = select(func.count()).where(every.c.run_id == run_parts.c.run_id).scalar_subquery().label("num_parts")
    query = (
        select(run_parts.c.run_id, runs.c.token, run_parts.c.node_rank, num_parts)
        .join(runs, runs.c.id == run_parts.c.run_id)
        .where(run_parts.c.worker_id == worker_id, run_parts.c.run_id.in_(run_ids))
    )
    return list(connection.execute(query).mappings())
