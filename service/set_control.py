"""Control of sets: what users ask of all jobs of a set at once. Each writes its rows first and rings second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import alteration, sets
from .database import Database
from .doorbell import Doorbell


def cancel(database: Database, doorbell: Doorbell, set_id: int, *, actor: str) -> bool:
    """Cancel what waits, and ask the workers of what is placed to end it; False if Redis does not answer.

    Raises:
        DljobsError: all have ended.
    """
    with database.write() as connection:
        sets.cancel_set(connection, set_id, actor=actor)
        placed = sets.live_runs(connection, set_id=set_id)
    answers = [doorbell.ring_attend(worker, run_id) for worker, run_id in placed]
    if not placed:
        doorbell.ring_schedule()  # as after `control.cancel`
    return all(answers)


def hold(database: Database, set_id: int, *, actor: str) -> None:
    """Keep the queued jobs from starting.

    Raises:
        DljobsError: there are none.
    """
    with database.write() as connection:
        sets.hold_set(connection, set_id, actor=actor)


def release(database: Database, doorbell: Doorbell, set_id: int, *, actor: str) -> bool:
    """Let the held jobs go; False if Redis does not answer.

    Raises:
        DljobsError: there are none.
    """
    with database.write() as connection:
        sets.hold_set(connection, set_id, actor=actor, release=True)
    return doorbell.ring_schedule()


def retry(database: Database, doorbell: Doorbell, set_id: int, *, actor: str, fresh: bool) -> bool:
    """Queue again what failed or was cancelled, but not what was pruned; False if Redis does not answer.

    Raises:
        DljobsError: there is none.
    """
    with database.write() as connection:
        sets.retry_set(connection, set_id, actor=actor, fresh=fresh)
    return doorbell.ring_schedule()


def update(database: Database, doorbell: Doorbell, set_id: int, changes: Mapping[str, Any], *, actor: str) -> bool:
    """Change the jobs that wait, or how many may run at a time (max_parallel); False if Redis does not answer.

    Args:
        changes: new values as of `control.update`, and of max_parallel.

    Raises:
        DljobsError: none of its jobs waits, or a value cannot be right.
    """
    with database.write() as connection:
        alteration.alter_set(connection, set_id, changes, actor=actor)
    return doorbell.ring_schedule()
