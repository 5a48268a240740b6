"""Registration: which workers there are, the devices each one offers, and whether it is still heard from.

A device belongs to one worker at a time. A worker's row outlives its process; `session` tells one start from the next.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from dljobs.errors import UsageError

from .clock import now, read_now
from .database import Lock, wait_for_lock
from .events import record
from .process_mark import ProcessMark
from .states import WorkerState
from .tables import devices, workers


@dataclass(frozen=True)
class DeviceInfo:
    """A device as a worker declares it."""

    uuid: str
    kind: str  # "cpu" or "cuda"
    name: str
    position: int  # in PCI bus order on CUDA
    memory_bytes: int | None


@dataclass(frozen=True)
class WorkerInfo:
    """A worker process as it introduces itself."""

    name: str
    node: str
    process: ProcessMark
    versions: Mapping[str, str]
    devices: Sequence[DeviceInfo]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """What a worker shows with each heartbeat."""

    worker_id: int
    session: str
    num_devices: int


def register(
    connection: Connection, info: WorkerInfo, *, stale_after_s: float, is_alive: Callable[[ProcessMark], bool]
) -> Registration:
    """Enter a worker and its devices.

    Args:
        stale_after_s: a worker silent for longer no longer counts.
        is_alive: tells of a worker on this node whether its process still lives, which frees
            the name and the devices of a killed worker at once instead of after `stale_after_s`.

    Raises:
        UsageError: a living worker has the same name or one of these devices; the message names it.
    """
    # Two that start at once see no row of each other that they could lock.
    wait_for_lock(connection, Lock.REGISTRATION)
    moment = read_now(connection)

    def is_living(row: RowMapping) -> bool:
        if row["state"] == WorkerState.OFFLINE or moment - row["heartbeat_at"] > stale_after_s:
            return False
        return row["node"] != info.node or is_alive(ProcessMark(row["pid"], row["pid_born"]))

    known = {row["id"]: row for row in connection.execute(select(workers).with_for_update()).mappings()}
    mine = next((row for row in known.values() if row["name"] == info.name), None)
    if mine is not None and is_living(mine):
        raise UsageError(
            f"a worker named {info.name!r} already runs on node {mine['node']} (pid {mine['pid']})",
            "give this one another name with --name",
        )
    uuids = {device.uuid: device for device in info.devices}
    taken = select(devices).where(devices.c.node == info.node, devices.c.uuid.in_(uuids))
    for row in connection.execute(taken).mappings():
        owner = known.get(row["worker_id"])
        if owner is not None and owner is not mine and is_living(owner):
            raise UsageError(
                f"device {row['position']} ({row['name']}, {row['uuid']}) is already used by worker {owner['name']!r}",
                f"choose other devices with --gpus, or stop that worker (pid {owner['pid']})",
            )
    return _enter(connection, info, mine)


def _enter(connection: Connection, info: WorkerInfo, mine: RowMapping | None) -> Registration:
    session = secrets.token_hex(8)
    values = {
        "name": info.name,
        "node": info.node,
        "pid": info.process.pid,
        "pid_born": info.process.born,
        "session": session,
        "state": WorkerState.ONLINE,
        "versions_json": json.dumps(dict(info.versions)),
        "labels_json": json.dumps(dict(info.labels), sort_keys=True),
        "registered_at": now(),
        "heartbeat_at": now(),
    }
    if mine is None:
        worker_id = int(connection.execute(insert(workers).values(**values).returning(workers.c.id)).scalar_one())
    else:
        worker_id = mine["id"]
        connection.execute(update(workers).where(workers.c.id == worker_id).values(**values))
        connection.execute(update(devices).where(devices.c.worker_id == worker_id).values(worker_id=None))
    for device in info.devices:
        known = select(devices.c.id).where(devices.c.node == info.node, devices.c.uuid == device.uuid)
        device_id = connection.execute(known).scalar()
        fields = {**vars(device), "worker_id": worker_id}
        if device_id is None:
            connection.execute(insert(devices).values(node=info.node, **fields))
        else:
            connection.execute(update(devices).where(devices.c.id == device_id).values(**fields))
    reason = f"{info.name} offers {len(info.devices)} devices on {info.node}"
    about = {"worker_id": worker_id, "to_state": WorkerState.ONLINE}
    record(connection, "worker", reason, actor=info.name, **about)  # type: ignore[arg-type]
    return Registration(worker_id, session, len(info.devices))


def beat(connection: Connection, registration: Registration) -> bool:
    """Say that the worker is there; False if another process has taken its place or one of its devices.

    The latter happens to a worker that was silent for so long that its devices were given to another.
    """
    mine = (workers.c.id == registration.worker_id, workers.c.session == registration.session)
    if connection.execute(update(workers).where(*mine).values(heartbeat_at=now())).rowcount != 1:
        return False
    owned = select(func.count()).select_from(devices).where(devices.c.worker_id == registration.worker_id)
    return int(connection.execute(owned).scalar_one()) == registration.num_devices


def set_state(connection: Connection, registration: Registration, state: WorkerState, *, reason: str) -> None:
    """Move the worker to another state (unless it was replaced); going offline gives up its devices."""
    mine = (workers.c.id == registration.worker_id, workers.c.session == registration.session)
    row = connection.execute(select(workers).where(*mine)).mappings().one_or_none()
    if row is None or row["state"] == state:
        return
    connection.execute(update(workers).where(*mine).values(state=state))
    if state == WorkerState.OFFLINE:
        mine_too = devices.c.worker_id == registration.worker_id
        connection.execute(update(devices).where(mine_too).values(worker_id=None))
    record(
        connection,
        "worker",
        reason,
        actor=row["name"],
        from_state=row["state"],
        to_state=state,
        worker_id=registration.worker_id,
    )


def get_worker(connection: Connection, worker_id: int) -> RowMapping:
    """A worker as `list_workers` gives it."""
    silent_s = (now() - workers.c.heartbeat_at).label("silent_s")
    return connection.execute(select(workers, silent_s).where(workers.c.id == worker_id)).mappings().one()
