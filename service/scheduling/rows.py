"""Rows: what the scheduler is given to decide upon, as plain values: jobs, workers with their devices, the policy.

A leaf: it knows neither where the values come from (a database, or a simulator's trace) nor what is made of them.
Moments are seconds on one clock, the database's in the service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from .quotas import OverQuota, Quota

CPU = "cpu"


class Condition(StrEnum):
    """How a job that another one waits for has to end."""

    OK = "ok"
    FAIL = "fail"
    ANY = "any"


class Progress(StrEnum):
    """How far a job that another one waits for has come; `failed` is any end without success."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job that has to end, so or so, before another may start; with `is_set` all jobs of a set."""

    job_id: int
    condition: Condition
    progress: Progress
    is_set: bool = False  # `job_id` is the set's id

    @property
    def is_met(self) -> bool:
        """Whether it no longer stands in the way."""
        if self.condition is Condition.ANY:
            return self.progress is not Progress.PENDING
        return self.progress is (Progress.SUCCEEDED if self.condition is Condition.OK else Progress.FAILED)

    @property
    def is_hopeless(self) -> bool:
        """Whether the job has ended in the other way; only a retry of it could change that."""
        return self.progress is not Progress.PENDING and not self.is_met


@dataclass(frozen=True, slots=True)
class Sharer:
    """A job that is on a device together with others, and what it has of it."""

    job_id: int
    percent: int
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OfferedDevice:
    """A device of a worker; `job_id` is the job that holds all of it now, `sharers` are those that hold a part."""

    id: int
    job_id: int | None = None
    name: str = CPU  # the model, as the driver names it: "NVIDIA H100 80GB HBM3"
    memory_bytes: int | None = None
    quarantined: str | None = None  # why it takes nothing new
    sharers: tuple[Sharer, ...] = ()

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU stand-in; its name begins with its kind."""
        return self.name.startswith(CPU)

    @property
    def is_free(self) -> bool:
        """Whether nobody is on it."""
        return self.job_id is None and not self.sharers


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one device that a job asks for; memory of None: as large a part of the memory."""

    percent: int
    memory_bytes: int | None = None

    def memory_on(self, device: OfferedDevice) -> int:
        """The bytes that it takes of a device's memory; none of an unknown one."""
        if device.memory_bytes is None:
            return 0
        return device.memory_bytes * self.percent // 100 if self.memory_bytes is None else self.memory_bytes


@dataclass(frozen=True, slots=True)
class OfferingWorker:
    """A worker that takes work, unless its node is drained."""

    id: int
    name: str
    devices: tuple[OfferedDevice, ...]
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    drained: str | None = None  # why its node takes nothing new

    def has_label(self, key: str, value: str) -> bool:
        """Whether it bears this label; `node` and `worker` are labels that everyone bears."""
        if key in ("node", "worker"):
            return value == (self.node if key == "node" else self.name)
        return self.labels.get(key) == value


@dataclass(frozen=True, slots=True)
class Selector:
    """Which devices of which nodes a job may run on, and what part of one; the default is any, as a whole."""

    device_type: str = ""  # "h100", "rtx 4090", "cpu"
    memory_bytes: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    exclude: tuple[str, ...] = ()  # names of nodes or workers
    share: Share | None = None  # None: whole devices

    @property
    def is_about_devices(self) -> bool:
        """Whether devices of one worker may differ in whether they will do."""
        return bool(self.device_type or self.memory_bytes or (self.share and self.share.memory_bytes))

    def allows(self, worker: OfferingWorker) -> bool:
        """Whether the job may run on this worker, as far as it has the devices."""
        if worker.node in self.exclude or worker.name in self.exclude:
            return False
        return all(worker.has_label(key, value) for key, value in self.labels)

    def accepts(self, device: OfferedDevice) -> bool:
        """Whether the device is of the kind and has the memory; one of unknown memory has none."""
        if self.memory_bytes and (device.memory_bytes or 0) < self.memory_bytes:
            return False
        if self.share is not None and self.share.memory_on(device) > (device.memory_bytes or 0):
            return False
        return not self.device_type or _words(self.device_type) <= _words(device.name)

    def __str__(self) -> str:
        wishes = [f"type {self.device_type}"] if self.device_type else []
        memory_bytes = self.memory_bytes or (self.share.memory_bytes if self.share else 0)
        wishes += [f"{memory_bytes / 1e9:g} GB of memory"] if memory_bytes else []
        wishes += [f"{key}={value}" for key, value in self.labels]
        wishes += [f"not on {name}" for name in self.exclude]
        return ", ".join(wishes)


@lru_cache(maxsize=1024)
def _words(name: str) -> frozenset[str]:
    # Whole words, so that an A10 is no A100.
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


ANYWHERE = Selector()


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue, as much of it as placing needs."""

    id: int
    num_devices: int  # that it needs, at the least
    priority: int
    submitted_at: float
    user: str = ""
    tags: tuple[str, ...] = ()
    selector: Selector = ANYWHERE
    duration_s: float | None = None  # how long it is expected to run, at the most; None: nobody knows
    after: tuple[Dependency, ...] = ()
    begin_at: float | None = None  # not before, by its user's wish
    eligible_at: float | None = None  # not before, because its last run failed
    held: bool = False
    num_nodes: int = 1  # so many equal parts, each on another node
    may_spread: bool = False  # if no worker has enough: the fewest equal parts that fit
    can_spread: bool = False  # that could be allowed: its devices need not be on one node
    most_devices: int = 0  # that it takes where one worker has as many free; 0: no more than it needs
    set_id: int | None = None
    kept: tuple[int, ...] = ()  # devices that are kept for it: those who held them were preempted for it

    @property
    def may_span(self) -> bool:
        """Whether it may get devices of several nodes."""
        return self.num_nodes > 1 or self.may_spread

    @property
    def size_percent(self) -> int:
        """What it needs, in hundredths of a device."""
        share = self.selector.share
        return 100 * self.num_devices if share is None else share.percent


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that holds devices. Which ones, the workers' devices say."""

    id: int
    num_devices: int
    user: str = ""
    tags: tuple[str, ...] = ()
    expected_end_at: float | None = None  # None: nobody knows
    share_percent: int = 100  # of each
    set_id: int | None = None
    priority: int = 50
    submitted_at: float = 0.0
    started_at: float = 0.0
    is_preemptible: bool = False  # by its user's word
    was_preempted: bool = False  # in an earlier run
    is_leaving: bool = False  # it has been preempted, and is about to go

    @property
    def size_percent(self) -> int:
        """What it holds, in hundredths of a device."""
        return self.share_percent * self.num_devices


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that one user, or all jobs of one tag, may have at a time, or (`quota`) in a period; None: no limit."""

    running_devices: int | None = None
    running_jobs: int | None = None
    queued_jobs: int | None = None
    quota: Quota | None = None


@dataclass(frozen=True)
class Policy:
    """How the scheduler decides. A name in `user_limits` or `tag_limits` may be `*`: all that have none of their own.

    Args:
        ageing_s: a job gains 10 points of priority each time it has waited for so long; from the first time on, those
            behind it no longer take what its user or tag may have running.
        fair_share: within an effective priority, users who used less than half as much of their share come first.
        backfill: jobs may overtake one that cannot start yet, if they don't delay it.
        align_ends: a job goes where others run at least as long as it will, so that nodes fall free as a whole.
        preemption: jobs that may be preempted are, for more important ones.
        preemptible_below: jobs of a lower priority than this may be preempted, whatever their users say.
        min_run_s: a job that has been preempted before runs at least so long before it is again.
    """

    ageing_s: float = 86400.0
    fair_share: bool = True
    backfill: bool = True
    align_ends: bool = True
    preemption: bool = True
    preemptible_below: int = 0
    min_run_s: float = 600.0
    shares: Mapping[str, float] = field(default_factory=dict)  # 1 unless said otherwise
    user_limits: Mapping[str, Limit] = field(default_factory=dict)
    tag_limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def has_quotas(self) -> bool:
        """Whether anybody's use is limited over time."""
        return any(limit.quota for limits in (self.user_limits, self.tag_limits) for limit in limits.values())


DEFAULT_POLICY = Policy()


@dataclass(frozen=True)
class Snapshot:
    """All that a plan depends on, at one moment.

    Args:
        usage: each user's decayed device-seconds (`usage.py`); who is missing has used nothing.
        max_parallel: how many jobs of a set may run at a time; a set that is missing has no limit.
        over_quota: the users ("user", name) and tags ("tag", name) whose quota is used up: none of theirs starts.
    """

    now: float
    waiting: Sequence[WaitingJob]
    workers: Sequence[OfferingWorker]
    running: Sequence[RunningJob] = ()
    usage: Mapping[str, float] = field(default_factory=dict)
    max_parallel: Mapping[int, int] = field(default_factory=dict)
    over_quota: Mapping[tuple[str, str], OverQuota] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """The devices of one worker in a placement."""

    worker_id: int
    device_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A decision: this job runs on these devices, a part on each worker; the part of node rank 0 comes first.

    Args:
        sharer: what it has of the only device, where that is not all of it.
    """

    job_id: int
    parts: tuple[Part, ...]
    sharer: Sharer | None = None

    @property
    def device_ids(self) -> tuple[int, ...]:
        """The devices of all parts."""
        return tuple(device_id for part in self.parts for device_id in part.device_ids)


@dataclass(frozen=True, slots=True)
class Preempted:
    """A decision: this running job goes back in the queue, so that the other may start."""

    job_id: int
    for_job_id: int
