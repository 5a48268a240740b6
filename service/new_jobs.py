"""New jobs: what is known of a job before it is there, and how its row comes to be.

All of it is text (`statements.py`), because a client does nothing else in its short life.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dljobs.errors import UsageError

from . import sources
from .names import Target, resolve
from .scheduling.rows import ANYWHERE, Condition, Selector
from .selectors import to_json
from .sizes import Size
from .spec import JobSpec
from .statements import AnyConnection, rows, run, value
from .states import WAITING_JOBS, JobState

if TYPE_CHECKING:
    from .freezing import Frozen


_OF_KEY = "SELECT id FROM {} WHERE {}.user = :user AND idempotency_key = :key"
_WAIT_FOR_JOB = (
    "INSERT INTO dependencies (job_id, after_id, condition) SELECT id, :after_id, :condition FROM jobs WHERE "
)
_WAIT_FOR_SET = (
    "INSERT INTO set_dependencies (job_id, after_set_id, condition) SELECT id, :after_id, :condition FROM jobs WHERE "
)
_TELL = (
    "INSERT INTO events (at, job_id, kind, reason, actor, to_state) "
    "SELECT NOW, id, 'submitted', 'submitted', :actor, state FROM jobs WHERE "
)


@dataclass(frozen=True)
class Beginning:
    """The checkpoint of another job that a job begins with."""

    job_id: int
    artifact_id: int


@dataclass(frozen=True)
class NewJob:
    """Everything a job row needs besides its spec."""

    spec: JobSpec
    user: str
    name: str
    priority: int = 50
    tags: tuple[str, ...] = ()
    time_limit_s: float | None = None
    max_retries: int = 2
    idempotency_key: str | None = None
    held: bool = False
    sources: tuple[Frozen, ...] = ()  # what the spec's digests name
    warnings: tuple[str, ...] = ()
    selector: Selector = ANYWHERE
    num_nodes: int = 1
    may_spread: bool = False
    begin_at: float | None = None
    min_devices: int | None = None  # what it needs at the least; None: all that its spec says
    share_percent: int = 100  # less: a part of one device
    begin_in_s: float | None = None  # by the database's clock, which may not be the client's
    is_preemptible: bool = False
    after: tuple[tuple[str, Condition], ...] = ()  # jobs and sets as users name them: 12, @, s3
    resume_from: str | None = None  # as users name it: 12, @:best, 12:step-40
    beginning: Beginning | None = None  # what that is

    @property
    def size(self) -> Size:
        """The devices that it asks for."""
        return Size(self.spec.num_devices, self.min_devices or self.spec.num_devices, self.share_percent)


def insert_job(connection: AnyConnection, new: NewJob) -> tuple[int, bool]:
    """Insert the job, or find the one this user already submitted under the same idempotency key.

    Returns:
        The job's id, and whether it was made now.

    Raises:
        NotFound, UsageError: a job that it is to wait for is none.
    """
    existing = find_same(connection, new)
    if existing is not None:
        return existing, False
    _refuse_key_of_set(connection, new)
    # Before the job itself is there, which `@` would mean.
    after = resolve_dependencies(connection, new)
    values = _values(new)
    begin_at, begin = (new.begin_at, "") if new.begin_in_s is None else (new.begin_in_s, "NOW + ")
    columns, given = ", ".join(f'"{name}"' for name in values), ", ".join(f":{name}" for name in values)
    query = (
        f"INSERT INTO jobs ({columns}, submitted_at, begin_at) VALUES ({given}, NOW, {begin}:begin_at) "  # noqa: S608
        'ON CONFLICT ("user", idempotency_key) DO NOTHING RETURNING id'
    )
    job_id = value(connection, query, **values, begin_at=begin_at)
    if job_id is None:  # only on Postgres: another client has committed the same key since we looked
        existing = find_same(connection, new)
        assert existing is not None
        return existing, False
    add_inserted(connection, new, after, "id = :job_id", job_id=job_id)
    return int(job_id), True


def job_values(new: NewJob, moment: float) -> dict[str, Any]:
    """The columns of a job that is submitted at this moment of the database's clock."""
    begin_at = new.begin_at if new.begin_in_s is None else moment + new.begin_in_s
    return {**_values(new), "submitted_at": moment, "begin_at": begin_at}


def find_same(connection: AnyConnection, new: NewJob) -> int | None:
    """The job that this user already submitted under the same idempotency key."""
    key = new.idempotency_key
    if key is None:
        return None
    found = value(connection, _OF_KEY.format("jobs", "jobs"), user=new.user, key=key)
    return None if found is None else int(found)


def resolve_dependencies(connection: AnyConnection, new: NewJob) -> list[tuple[Target, Condition]]:
    """What the job is to wait for.

    Raises:
        NotFound, UsageError: it is not there.
    """
    return list({resolve(connection, text): condition for text, condition in new.after}.items())


def add_inserted(
    connection: AnyConnection, new: NewJob, after: Sequence[tuple[Target, Condition]], which: str, **values: int
) -> None:
    """Add all that belongs to jobs whose rows have just been inserted, as many as there are, in a statement each.

    Args:
        which: the condition in SQL that they meet and no others.
    """
    for source in new.sources:
        sources.keep(connection, source)
    for target, condition in after:
        query = _WAIT_FOR_SET if target.is_set else _WAIT_FOR_JOB
        run(connection, query + which, after_id=target.id, condition=condition, **values)
    run(connection, _TELL + which, actor=new.user, **values)


def count_queued(connection: AnyConnection, *, user: str | None = None, tag: str | None = None) -> int:
    """How many jobs of a user, or with a tag, wait."""
    found = rows(connection, "SELECT jobs.user, tags_json FROM jobs WHERE state IN :states", states=WAITING_JOBS)
    return sum(row["user"] == user if tag is None else tag in json.loads(row["tags_json"]) for row in found)


def _refuse_key_of_set(connection: AnyConnection, new: NewJob) -> None:
    key = new.idempotency_key
    if key is None:
        return
    if set_id := value(connection, _OF_KEY.format("sets", "sets"), user=new.user, key=key):
        raise UsageError(f"idempotency key {key!r} was used before, for s{set_id}", "choose another for the job")


def _values(new: NewJob) -> dict[str, Any]:
    """The columns that no clock has a part in."""
    trains = new.spec.kind == "train"
    return {
        "state": JobState.HELD if new.held else JobState.QUEUED,
        "name": new.name,
        "user": new.user,
        "model": new.spec.model,
        "strategy": new.spec.strategy,
        "num_devices": new.spec.num_devices,
        "min_devices": new.size.min_devices,
        "share_percent": new.share_percent,
        "priority": new.priority,
        "tags_json": json.dumps(list(new.tags)),
        "spec_json": new.spec.to_json(),
        "idempotency_key": new.idempotency_key,
        "time_limit_s": new.time_limit_s,
        "max_retries": new.max_retries,
        "is_preemptible": int(new.is_preemptible),
        "selector_json": to_json(new.selector),
        "num_nodes": new.num_nodes,
        "may_spread": int(new.may_spread),
        "resumed_from_job_id": new.beginning and new.beginning.job_id,
        "resumed_from_artifact_id": new.beginning and new.beginning.artifact_id,
        "num_epochs": new.spec.training.epochs if trains else None,
        "batch_size": new.spec.training.batch_size if trains else None,
    }
