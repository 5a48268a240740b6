"""Random clusters and queues for the scheduler's properties, and snapshots changed as a plan or a cure changes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st

from dljobs.service.scheduling.planning import Plan
from dljobs.service.scheduling.quotas import Interval, OverQuota, Quota
from dljobs.service.scheduling.rows import (
    ANYWHERE,
    CPU,
    Condition,
    Dependency,
    Limit,
    OfferedDevice,
    OfferingWorker,
    Placed,
    Policy,
    Progress,
    RunningJob,
    Selector,
    Share,
    Sharer,
    Snapshot,
    WaitingJob,
)

# Of each property. More of them find rarer cases: DLJOBS_TEST_EXAMPLES=5000.
MANY = settings(max_examples=int(os.environ.get("DLJOBS_TEST_EXAMPLES", "150")), deadline=None)
NOW = 100_000.0
FIRST_RUNNING_ID = 1_000_000
USED_UP = OverQuota(Quota(3600.0, 86400.0), (Interval(NOW - 9000, NOW - 5000, 2),))
USERS = ("ada", "bob", "eve")
TAGS = ("lab", "thesis")
SETS = (1, 2)
MODELS = {"cpu": None, "NVIDIA A100-SXM4-40GB": 42_000_000_000, "NVIDIA H100 80GB HBM3": 85_000_000_000}

selectors = st.one_of(
    st.just(ANYWHERE),
    st.just(ANYWHERE),
    st.builds(
        Selector,
        device_type=st.sampled_from(["", "", "a100", "H100", "cpu"]),
        memory_bytes=st.sampled_from([0, 0, 40_000_000_000]),
        labels=st.sampled_from([(), (), (("zone", "north"),), (("node", "n1"),)]),
        exclude=st.sampled_from([(), (), ("n2",)]),
    ),
)
durations = st.sampled_from([None, 1.0, 30.0, 60.0, 600.0, 86400.0])
limits = st.builds(
    Limit, running_devices=st.sampled_from([None, 2, 5]), running_jobs=st.sampled_from([None, None, 1, 3])
)
policies = st.builds(
    Policy,
    ageing_s=st.sampled_from([3600.0, 86400.0]),
    fair_share=st.booleans(),
    backfill=st.booleans(),
    shares=st.dictionaries(st.sampled_from(USERS), st.sampled_from([0.5, 2.0]), max_size=2),
    user_limits=st.dictionaries(st.sampled_from([*USERS, "*"]), limits, max_size=2),
    tag_limits=st.dictionaries(st.sampled_from([*TAGS, "*"]), limits, max_size=1),
    preemptible_below=st.sampled_from([0, 0, 40, 101]),
)
dependencies = st.builds(
    Dependency,
    job_id=st.integers(2_000_000, 2_000_003),
    condition=st.sampled_from(Condition),
    progress=st.sampled_from(Progress),
)
shares = st.builds(
    Share, percent=st.sampled_from([10, 25, 50, 50, 75]), memory_bytes=st.sampled_from([None, None, 30_000_000_000])
)
whole_jobs = st.builds(
    WaitingJob,
    id=st.integers(1, 999),
    num_devices=st.integers(1, 6),
    priority=st.sampled_from([0, 50, 50, 50, 100]),
    submitted_at=st.sampled_from([0.0, NOW - 7200.0, NOW - 10.0, NOW - 5.0, NOW - 5.0, NOW]),
    user=st.sampled_from(USERS),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    selector=selectors,
    duration_s=durations,
    after=st.one_of(st.just(()), st.just(()), st.lists(dependencies, max_size=2).map(tuple)),
    begin_at=st.sampled_from([None, None, None, NOW - 1, NOW, NOW + 5]),
    eligible_at=st.sampled_from([None, None, None, NOW - 1, NOW + 90]),
    held=st.sampled_from([False, False, False, True]),
    set_id=st.sampled_from([None, None, *SETS]),
)


@st.composite
def waiting_jobs(draw: st.DrawFn) -> WaitingJob:
    """A job of so many devices, of a range of them, or of a part of one."""
    drawn = draw(whole_jobs)
    match draw(st.sampled_from(["whole", "range", "share"])):
        case "range":
            return replace(drawn, most_devices=drawn.num_devices + draw(st.integers(1, 4)))
        case "share":
            return replace(drawn, num_devices=1, selector=replace(drawn.selector, memory_bytes=0, share=draw(shares)))
    return drawn


def _spanning(job: WaitingJob, num_nodes: int, size: int) -> WaitingJob:
    """The job over several nodes: exactly so many, or (1) as it fits. On one named node there never are several."""
    labels = tuple(label for label in job.selector.labels if label[0] != "node")
    selector = replace(job.selector, labels=labels)
    number = size * num_nodes if num_nodes > 1 else 2 * size
    return replace(job, selector=selector, num_devices=number, num_nodes=num_nodes, may_spread=num_nodes == 1)


spanning_jobs = st.builds(_spanning, whole_jobs, st.sampled_from([1, 2, 2, 3]), st.integers(1, 3))
queues = st.lists(st.one_of(waiting_jobs(), waiting_jobs(), spanning_jobs), max_size=12, unique_by=lambda job: job.id)


def _running(job_id: int, num_devices: int, share_percent: int) -> st.SearchStrategy[RunningJob]:
    return st.builds(
        RunningJob,
        id=st.just(job_id),
        num_devices=st.just(num_devices),
        user=st.sampled_from(USERS),
        tags=st.just(()),
        expected_end_at=st.sampled_from([None, NOW - 5, NOW + 20, NOW + 40, NOW + 900]),
        share_percent=st.just(share_percent),
        set_id=st.sampled_from([None, None, *SETS]),
        priority=st.sampled_from([0, 50, 50, 100]),
        submitted_at=st.sampled_from([0.0, NOW - 9999]),
        started_at=st.sampled_from([NOW - 9999, NOW - 599, NOW - 5]),
        is_preemptible=st.booleans(),
        was_preempted=st.booleans(),
    )


def is_within(device: OfferedDevice) -> bool:
    """Whether those who are on a device have no more than there is, and nobody has all of it beside them."""
    percent = sum(each.percent for each in device.sharers)
    memory_bytes = sum(each.memory_bytes for each in device.sharers)
    is_alone = device.job_id is None or not device.sharers
    return is_alone and percent <= 100 and memory_bytes <= (device.memory_bytes or 0)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[OfferingWorker], list[RunningJob]]:
    """Workers of a few devices, and jobs that hold some, or parts of some: each on one worker, each known."""
    workers, running = [], []
    device_id = job_id = 0
    for number in range(1, draw(st.integers(0, 4)) + 1):
        devices: list[OfferedDevice] = []
        is_cpu = draw(st.booleans())
        for size, is_held in draw(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=4)):
            model = draw(st.sampled_from([name for name in MODELS if (name == CPU) == is_cpu]))
            if not size:
                device_id += 1
                device = OfferedDevice(device_id, None, model, MODELS[model])
                sharers = []
                for share in draw(st.lists(shares, min_size=1, max_size=3)):
                    sharer = Sharer(FIRST_RUNNING_ID + job_id + 1, share.percent, share.memory_on(device))
                    if is_within(replace(device, sharers=(*sharers, sharer))):
                        sharers.append(sharer)
                        job_id += 1
                        running.append(draw(_running(sharer.job_id, 1, sharer.percent)))
                devices.append(replace(device, sharers=tuple(sharers)))
                continue
            job_id += is_held
            holder = FIRST_RUNNING_ID + job_id if is_held else None
            for _ in range(size):
                device_id += 1
                why = draw(st.sampled_from([None, None, None, None, "it does not answer"]))
                devices.append(OfferedDevice(device_id, holder, model, MODELS[model], why))
            if holder is not None:
                running.append(draw(_running(holder, size, 100)))
        labels = draw(st.sampled_from([{}, {}, {"zone": "north"}]))
        drained = draw(st.sampled_from([None, None, None, "a fan is broken"]))
        node = f"n{draw(st.sampled_from([number, number, max(number - 1, 1)]))}"  # now and then one has two workers
        workers.append(OfferingWorker(number, f"w{number}", tuple(devices), node, labels, drained))
    return workers, running


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any cluster with any queue."""
    workers, running = draw(clusters())
    usage = draw(st.dictionaries(st.sampled_from(USERS), st.floats(0, 1e6), max_size=3))
    max_parallel = draw(st.dictionaries(st.sampled_from(SETS), st.integers(1, 3), max_size=2))
    whose = st.sampled_from([("user", "ada"), ("tag", "lab")])
    over_quota = draw(st.dictionaries(whose, st.just(USED_UP), max_size=1)) if draw(st.integers(0, 3)) == 3 else {}
    return Snapshot(NOW, draw(queues), workers, running, usage, max_parallel, over_quota)


def carried_out(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The snapshot once the plan has been carried out: what it placed runs, what it preempted is about to go."""
    jobs = {job.id: job for job in snapshot.waiting}
    kept = {job_id: each.device_ids for job_id, each in plan.kept.items()}
    leaving = {each.job_id for each in plan.preempted}
    placed = {placed.job_id: placed for placed in plan.placed}
    stay = [replace(job, is_leaving=job.is_leaving or job.id in leaving) for job in snapshot.running]
    return replace(
        snapshot,
        waiting=[replace(job, kept=kept.get(job.id, ())) for job in snapshot.waiting if job.id not in placed],
        workers=hold(snapshot.workers, plan.placed),
        running=[*stay, *(started(jobs[job_id], each, snapshot.now) for job_id, each in placed.items())],
    )


def handed_over(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """As `carried_out`, but those for whom others are about to go have their devices already."""
    after = carried_out(snapshot, plan)
    jobs = {job.id: job for job in snapshot.waiting}
    holder = {device_id: job_id for job_id, each in plan.kept.items() for device_id in each.device_ids}
    kept = [started(jobs[job_id], Placed(job_id, each.parts), snapshot.now) for job_id, each in plan.kept.items()]
    return replace(
        after,
        waiting=[job for job in after.waiting if job.id not in plan.kept],
        workers=_with_devices(after.workers, lambda d: replace(d, job_id=holder.get(d.id, d.job_id))),
        running=[*after.running, *kept],
    )


def started(job: WaitingJob, placed: Placed, now: float) -> RunningJob:
    """The job, once it runs; anyone who is more important may preempt it."""
    return RunningJob(
        job.id,
        len(placed.device_ids),
        job.user,
        job.tags,
        job.duration_s and now + job.duration_s,
        100 if placed.sharer is None else placed.sharer.percent,
        job.set_id,
        job.priority,
        job.submitted_at,
        now,
        is_preemptible=True,
    )


def gone(snapshot: Snapshot) -> Snapshot:
    """The snapshot once all have gone that were about to: their devices are free, and they are not in the queue."""
    leaving = {job.id for job in snapshot.running if job.is_leaving}
    left = [job for job in snapshot.running if job.id not in leaving]
    return replace(snapshot, workers=without(snapshot.workers, leaving), running=left)


def hold(workers: Sequence[OfferingWorker], decided: Sequence[Placed]) -> list[OfferingWorker]:
    """The workers with the devices of these placements held by their jobs."""

    def taken(device: OfferedDevice) -> OfferedDevice:
        for placed in decided:
            if device.id in placed.device_ids:
                sharers = (*device.sharers, placed.sharer) if placed.sharer else device.sharers
                assert placed.sharer or device.is_free
                device = replace(device, job_id=None if placed.sharer else placed.job_id, sharers=sharers)
        return device

    return _with_devices(workers, taken)


def without(workers: Sequence[OfferingWorker], job_ids: Container[int]) -> list[OfferingWorker]:
    """The workers once these jobs have ended."""

    def left(device: OfferedDevice) -> OfferedDevice:
        sharers = tuple(each for each in device.sharers if each.job_id not in job_ids)
        return replace(device, job_id=None if device.job_id in job_ids else device.job_id, sharers=sharers)

    return _with_devices(workers, left)


def _with_devices(
    workers: Sequence[OfferingWorker], changed: Callable[[OfferedDevice], OfferedDevice]
) -> list[OfferingWorker]:
    return [replace(worker, devices=tuple(map(changed, worker.devices))) for worker in workers]


def is_usable(device: OfferedDevice) -> bool:
    """Whether the device takes work, now or once it is free."""
    return device.quarantined is None


def idle_worker(worker_id: int, selector: Selector, num_devices: int) -> OfferingWorker:
    """A worker that has just what the selector asks for, and nothing else to do."""
    wanted = selector.device_type.lower()
    model = next((name for name in reversed(MODELS) if wanted in name.lower()), "cpu")
    declared = selector.share.memory_bytes if selector.share else None
    memory = max(selector.memory_bytes, declared or 0, 10**9)
    devices = tuple(OfferedDevice(worker_id * 100 + n, None, model, memory) for n in range(num_devices))
    labels = {key: value for key, value in selector.labels if key != "node"}
    node = next((value for key, value in selector.labels if key == "node"), f"spare{worker_id}")
    return OfferingWorker(worker_id, f"spare{worker_id}", devices, node, labels)


def idle_workers(job: WaitingJob) -> list[OfferingWorker]:
    """Workers that have just what the job asks for."""
    size = job.num_devices // job.num_nodes
    return [idle_worker(90 + number, job.selector, size) for number in range(job.num_nodes)]


def job(job_id: int, num_devices: int = 1, **fields: object) -> WaitingJob:
    """A job by example; younger ones have larger ids."""
    values = {"priority": 50, "submitted_at": float(job_id), "user": "ada"}
    return WaitingJob(job_id, num_devices, **{**values, **fields})  # type: ignore[arg-type]


def worker(worker_id: int, *held_by: int | None, **fields: object) -> OfferingWorker:
    """A worker by example, one device for each of `held_by`."""
    devices = tuple(OfferedDevice(worker_id * 10 + number, job_id) for number, job_id in enumerate(held_by))
    return OfferingWorker(worker_id, f"w{worker_id}", devices, f"n{worker_id}", **fields)  # type: ignore[arg-type]


def runs(job_id: int, num_devices: int = 1, for_s: float | None = None, user: str = "bob") -> RunningJob:
    """A job that runs, and ends in `for_s` seconds."""
    return RunningJob(job_id, num_devices, user, (), None if for_s is None else NOW + for_s)
