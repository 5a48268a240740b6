"""Events: the history of everything that happened to jobs, runs and workers, written in the transaction that did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, String, insert, literal, select

from .clock import now
from .tables import events, jobs


def record(
    connection: Connection,
    kind: str,
    reason: str,
    *,
    actor: str,
    from_state: str | None = None,
    to_state: str | None = None,
    **about: int | None,
) -> None:
    """Write one event; `about` holds job_id, run_id and worker_id where they apply."""
    values: dict[str, Any] = {"kind": kind, "reason": reason, "actor": actor, **about}
    connection.execute(insert(events).values(at=now(), from_state=from_state, to_state=to_state, **values))


def record_each(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write many events in their order; each row has the same columns as the others."""
    if rows:
        connection.execute(insert(events), rows)


def record_all(
    connection: Connection,
    kind: str,
    reason: str,
    which: ColumnElement[bool],
    *,
    actor: str,
    to_state: Any,
    from_state: Any = None,
) -> None:
    """As `record`, for many jobs at once; a state may be a column of theirs."""
    columns = ["at", "job_id", "kind", "reason", "actor", "from_state", "to_state"]
    words = (literal(kind), literal(reason, events.c.reason.type), literal(actor))
    rows = select(now(), jobs.c.id, *words, _column(from_state), _column(to_state)).where(which)
    connection.execute(insert(events).from_select(columns, rows))


def _column(state: Any) -> ColumnElement[Any]:
    return state if isinstance(state, ColumnElement) else literal(state, String)


def list_events(
    connection: Connection, *, job_id: int | None = None, after_id: int = 0, limit: int = 100
) -> list[RowMapping]:
    """The newest `limit` events after `after_id`, of one job or of all, oldest first."""
    query = select(events).where(events.c.id > after_id)
    if job_id is not None:
        query = query.where(events.c.job_id == job_id)
    newest = connection.execute(query.order_by(events.c.id.desc()).limit(limit)).mappings().all()
    return list(reversed(newest))
