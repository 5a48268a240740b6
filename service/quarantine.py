"""Quarantine: the devices that failed a check, why, since when, and when they are checked again.

A device has at most one row. One that a person released keeps its row: the fault that was accepted is not held against
it again, a new one is. How a device is checked is the worker's business (`workers/health.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from dljobs.errors import NotFound, UsageError

from .clock import now
from .events import record
from .statements import Row
from .tables import devices, quarantines

LONGEST_RETRY_S = 3600.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with a device; `key` names a fault that a person may accept, "" is one that makes it useless."""

    text: str
    key: str = ""


def quarantine(connection: Connection, device: Row, fault: Fault, *, actor: str, retry_s: float) -> None:
    """The device takes nothing new; it is tried again after `retry_s`, and after twice as long each further time."""
    mine = quarantines.c.device_id == device["id"]
    known = connection.execute(select(quarantines).where(mine)).mappings().one_or_none()
    again = known is not None and known["released_at"] is None
    num_tries = known["num_tries"] + 1 if known is not None and again else 1
    values: dict[str, Any] = {"reason": fault.text, "fault_key": fault.key[:200], "num_tries": num_tries}
    values |= {"released_at": None, "released_by": None}
    values["next_try_at"] = now() + min(retry_s * 2.0 ** min(num_tries - 1, 32), LONGEST_RETRY_S)
    if not again:
        values["since_at"] = now()
        words = f"device {device['uuid']} of node {device['node']} is quarantined: {fault.text}"
        record(connection, "quarantine", words, actor=actor, worker_id=device["worker_id"])
    if known is None:
        connection.execute(insert(quarantines).values(device_id=device["id"], **values))
    else:
        connection.execute(update(quarantines).where(mine).values(**values))


def lift(connection: Connection, device: Row, *, actor: str) -> bool:
    """A check has found nothing wrong with the device; whether it was in quarantine until now."""
    gone = delete(quarantines).where(quarantines.c.device_id == device["id"]).returning(quarantines.c.released_at)
    row = connection.execute(gone).one_or_none()
    if row is None or row.released_at is not None:
        return False
    words = f"device {device['uuid']} of node {device['node']} is well again"
    record(connection, "quarantine", words, actor=actor, worker_id=device["worker_id"])
    return True


def release(connection: Connection, name: str, *, actor: str) -> str:
    """Let a device take work again, named as `NODE:DEVICE` by its UUID (or how that begins) or its position.

    Returns:
        The device as `NODE:UUID`.

    Raises:
        UsageError, NotFound: it names none, more than one, or one that is not in quarantine.
    """
    node, colon, text = name.rpartition(":")
    if not colon or not node or not text:
        raise UsageError(f"{name[:80]!r} names no device", "write NODE:DEVICE, as `dljobs gpu list` shows it")
    device = _find(connection, node, text)
    held = quarantines.c.device_id == device["id"], quarantines.c.released_at.is_(None)
    if not connection.execute(update(quarantines).where(*held).values(released_at=now(), released_by=actor)).rowcount:
        raise UsageError(f"device {text} of node {node} is not in quarantine", "`dljobs gpu list` shows which are")
    words = f"{actor} released device {device['uuid']} of node {node} from quarantine"
    record(connection, "quarantine", words, actor=actor, worker_id=device["worker_id"])
    return f"{node}:{device['uuid']}"


def list_known(connection: Connection, device_ids: Iterable[int]) -> dict[int, RowMapping]:
    """What is known against these devices, by id: also what was accepted, with `is_due`: to be tried again now."""
    is_due = (quarantines.c.next_try_at <= now()).label("is_due")
    query = select(quarantines, is_due).where(quarantines.c.device_id.in_(list(device_ids)))
    return {row["device_id"]: row for row in connection.execute(query).mappings()}


def _find(connection: Connection, node: str, text: str) -> RowMapping:
    on_node = connection.execute(select(devices).where(devices.c.node == node).order_by(devices.c.position)).mappings()
    found = list(on_node)
    if not found:
        known = sorted(connection.execute(select(devices.c.node).distinct()).scalars())
        raise NotFound(f"there is no node {node!r} with devices", f"nodes: {', '.join(known) or 'none yet'}")
    matching = [row for row in found if row["uuid"] == text] or [row for row in found if row["uuid"].startswith(text)]
    if text.isdigit():
        # Several workers with stand-ins each have a device 0, and rows of workers that are gone are kept.
        matching = [row for row in found if row["position"] == int(text)]
        matching = [row for row in matching if row["worker_id"] is not None] or matching
    if len(matching) > 1:
        hint = ", ".join(row["uuid"] for row in matching[:8])
        raise UsageError(f"{text!r} means {len(matching)} devices of node {node}", f"write one of {hint}")
    if not matching:
        hint = f"it has {', '.join(row['uuid'] for row in found[:8])}{', …' if len(found) > 8 else ''}"
        raise NotFound(f"node {node} has no device {text[:80]!r}", hint)
    return matching[0]
