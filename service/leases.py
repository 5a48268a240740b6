"""Leases: which devices a run holds, until when, and the token that fences its writes.

The database lets a device have one live lease of the whole of it (a partial unique index), and no more leases of parts
than add up to the whole (a check of `devices.leased_percent`, which changes here alone and in the same transaction as
the leases it counts). So two schedulers cannot both win.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Integer, RowMapping, Update, bindparam, func, insert, select, update

from .clock import now
from .scheduling.rows import Part
from .statements import Row, rows
from .states import LIVE_RUNS
from .tables import devices, leases, run_parts, runs

_COUNT = (
    update(devices)
    .where(devices.c.id == bindparam("of_device"))
    .values(leased_percent=devices.c.leased_percent + bindparam("by", type_=Integer))
)


def new_token() -> str:
    """A token nobody can guess: 128 random bits in hex."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class NewLease:
    """What a run is given: the devices of all its parts.

    Args:
        percent: how much of each of them.
        memory_bytes: how much of its memory is kept for the run, where it is shared.
    """

    run_id: int
    token: str
    parts: Sequence[Part]
    percent: int = 100
    memory_bytes: int = 0


def acquire(connection: Connection, new: Sequence[NewLease], moment: float, lease_s: float) -> None:
    """Lease devices to runs from now on; an IntegrityError (one is taken) undoes the whole transaction."""
    held = [
        {"run_id": each.run_id, "device_id": device_id, "node_rank": node_rank, "token": each.token}
        | {"percent": each.percent, "memory_bytes": each.memory_bytes}
        | {"acquired_at": moment, "expires_at": moment + lease_s}
        for each in new
        for node_rank, part in enumerate(each.parts)
        for device_id in part.device_ids
    ]
    _count(
        connection, [(device_id, each.percent) for each in new for part in each.parts for device_id in part.device_ids]
    )
    connection.execute(insert(leases), held)


def renew(connection: Connection, worker_id: int, tokens: Iterable[str], lease_s: float) -> set[str]:
    """Renew the worker's leases of these tokens in one statement; returns the tokens that are still valid.

    Not those of other workers with a part in the same run: each says for itself that it is there.
    """
    part = (run_parts.c.run_id == leases.c.run_id, run_parts.c.node_rank == leases.c.node_rank)
    is_mine = select(run_parts.c.run_id).where(*part, run_parts.c.worker_id == worker_id).exists()
    live = _in_order(leases.c.token.in_(list(tokens)), is_mine)
    renewed = connection.execute(live.values(expires_at=now() + lease_s).returning(leases.c.token))
    return {row.token for row in renewed}


def release(connection: Connection, run_ids: Collection[int], moment: float) -> None:
    """Free the devices of these runs."""
    held = _in_order(leases.c.run_id.in_(run_ids)).values(released_at=moment)
    freed = connection.execute(held.returning(leases.c.device_id, leases.c.percent))
    _count(connection, [(row.device_id, -row.percent) for row in freed])


def _in_order(*which: ColumnElement[bool]) -> Update:
    """An update of live leases that locks them in one order: two that do it in opposite orders wait for each other."""
    # By a sum, not by the key: to spare itself the sort SQLite would go through all leases there ever were.
    order = leases.c.id + 0
    locked = select(leases.c.id).where(*which, leases.c.released_at.is_(None)).order_by(order).with_for_update()
    return update(leases).where(leases.c.id.in_(locked))


def _count(connection: Connection, changes: Iterable[tuple[int, int]]) -> None:
    """Add to what is leased of devices, or take from it: (device_id, percent) each."""
    found = [{"of_device": device_id, "by": percent} for device_id, percent in sorted(changes)]  # in one order, too
    if found:
        connection.execute(_COUNT, found)


def expired_parts(connection: Connection) -> list[RowMapping]:
    """The parts of live runs that let a lease run out: run_id, worker_id, claimed_at, how long ago (seconds)."""
    overdue = (now() - func.min(leases.c.expires_at)).label("overdue_s")
    part = (run_parts.c.run_id == leases.c.run_id) & (run_parts.c.node_rank == leases.c.node_rank)
    columns = (run_parts.c.run_id, run_parts.c.node_rank, run_parts.c.worker_id, run_parts.c.claimed_at)
    query = (
        select(*columns, overdue)
        .join(leases, part)
        .join(runs, runs.c.id == run_parts.c.run_id)
        .where(runs.c.state.in_(LIVE_RUNS), leases.c.released_at.is_(None))
        .group_by(*columns)
        .having(func.min(leases.c.expires_at) < now())
        .order_by(run_parts.c.run_id, overdue.desc())
    )
    return list(connection.execute(query).mappings())


def lock_if_expired(connection: Connection, run_id: int) -> bool:
    """Whether a lease of the run has still run out; until this transaction ends nobody renews it."""
    # The run first, as `take_notices` does: two that lock in opposite orders wait for each other.
    connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update())
    held = select((leases.c.expires_at < now()).label("overdue"))
    locked = held.where(leases.c.run_id == run_id, leases.c.released_at.is_(None)).with_for_update()
    return any(row.overdue for row in connection.execute(locked))


def placement(connection: Connection, run_id: int) -> list[Row]:
    """The devices a run holds or held, in their order on the node.

    Each with the `node_rank` of its part, the `percent` that are the run's, and the `kept_bytes` of a shared device.
    """
    return placements(connection, [run_id]).get(run_id, [])


def placements(connection: Connection, run_ids: Sequence[int]) -> dict[int, list[Row]]:
    """As `placement`, of many runs."""
    query = (
        "SELECT devices.*, leases.run_id, leases.node_rank, leases.percent, leases.memory_bytes AS kept_bytes "
        "FROM leases JOIN devices ON devices.id = leases.device_id "
        "WHERE leases.run_id IN :run_ids ORDER BY leases.run_id, leases.node_rank, devices.position"
    )
    found: dict[int, list[Row]] = {}
    for row in rows(connection, query, run_ids=tuple(run_ids)):
        found.setdefault(row["run_id"], []).append(row)
    return found
