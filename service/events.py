"""Events: the history of everything that happened to jobs, runs and workers, written in the transaction that did it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from .clock import now
from .tables import events


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


def list_events(
    connection: Connection, *, job_id: int | None = None, after_id: int = 0, limit: int = 100
) -> list[RowMapping]:
    """The newest `limit` events after `after_id`, of one job or of all, oldest first."""
    query = select(events).where(events.c.id > after_id)
    if job_id is not None:
        query = query.where(events.c.job_id == job_id)
    newest = connection.execute(query.order_by(events.c.id.desc()).limit(limit)).mappings().all()
    return list(reversed(newest))
