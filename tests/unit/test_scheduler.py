"""The scheduler's promises, for any jobs and workers: nothing twice, all or nothing, in order, with true reasons."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduler import (
    OfferedDevice,
    OfferingWorker,
    Plan,
    ReasonCode,
    WaitingJob,
    plan,
)

NOW = 1000.0


@st.composite
def queues(draw: st.DrawFn) -> list[WaitingJob]:
    job = st.builds(
        WaitingJob,
        id=st.integers(1, 10**6),
        num_devices=st.integers(1, 6),
        priority=st.sampled_from([0, 50, 50, 50, 100]),
        submitted_at=st.integers(0, 5).map(float),
        eligible_at=st.sampled_from([None, None, None, NOW - 1, NOW, NOW + 0.5, NOW + 90]),
        held=st.sampled_from([False, False, False, True]),
    )
    return draw(st.lists(job, max_size=12, unique_by=lambda job: job.id))


@st.composite
def clusters(draw: st.DrawFn) -> list[OfferingWorker]:
    holders = draw(st.lists(st.lists(st.sampled_from([None, None, 7_000_001, 7_000_002]), max_size=5), max_size=4))
    workers, device_id = [], 1
    for number, held_by in enumerate(holders, start=1):
        devices = tuple(OfferedDevice(device_id + n, job_id) for n, job_id in enumerate(held_by))
        workers.append(OfferingWorker(number, f"w{number}", devices))
        device_id += len(devices)
    return workers


def order(jobs: Sequence[WaitingJob]) -> list[WaitingJob]:
    return sorted(jobs, key=lambda job: (-job.priority, job.submitted_at, job.id))


def could_run_alone(job: WaitingJob, workers: Sequence[OfferingWorker]) -> bool:
    """On an empty cluster, now."""
    fits = any(len(worker.devices) >= job.num_devices for worker in workers)
    return fits and not job.held and (job.eligible_at is None or job.eligible_at <= NOW)


def num_free(
    result: Plan, workers: Sequence[OfferingWorker], before: WaitingJob, jobs: list[WaitingJob]
) -> dict[str, int]:
    """Free devices of each worker when `before` had its turn."""
    earlier = {job.id for job in order(jobs)[: order(jobs).index(before)]}
    free = {worker.name: sum(device.job_id is None for device in worker.devices) for worker in workers}
    names = {worker.id: worker.name for worker in workers}
    for placed in result.placed:
        if placed.job_id in earlier:
            free[names[placed.worker_id]] -= len(placed.device_ids)
    return free


@given(queues(), clusters())
def test_no_device_is_given_twice_and_a_placement_is_whole(
    jobs: list[WaitingJob], workers: list[OfferingWorker]
) -> None:
    result = plan(jobs, workers, NOW)
    given_out = [device_id for placed in result.placed for device_id in placed.device_ids]
    assert len(given_out) == len(set(given_out))
    free = {worker.id: {device.id for device in worker.devices if device.job_id is None} for worker in workers}
    wanted = {job.id: job.num_devices for job in jobs}
    for placed in result.placed:
        assert set(placed.device_ids) <= free[placed.worker_id]
        assert len(placed.device_ids) == wanted[placed.job_id]


@given(queues(), clusters())
def test_every_job_is_placed_once_or_has_a_reason(jobs: list[WaitingJob], workers: list[OfferingWorker]) -> None:
    result = plan(jobs, workers, NOW)
    placed = [placement.job_id for placement in result.placed]
    assert len(placed) == len(set(placed))
    assert set(placed) | set(result.reasons) == {job.id for job in jobs}
    assert not set(placed) & set(result.reasons)
    assert all(reasons and all(reason.text for reason in reasons) for reasons in result.reasons.values())


@given(queues(), clusters())
def test_first_come_first_served_within_a_priority(jobs: list[WaitingJob], workers: list[OfferingWorker]) -> None:
    """No job that could run is overtaken, so that a large one is never starved by small ones."""
    result = plan(jobs, workers, NOW)
    placed = {placement.job_id for placement in result.placed}
    able = [job.id in placed for job in order(jobs) if could_run_alone(job, workers)]
    assert able == sorted(able, reverse=True)
    assert all(could_run_alone(job, workers) for job in jobs if job.id in placed)
    position = {job.id: number for number, job in enumerate(order(jobs))}
    turns = [position[placement.job_id] for placement in result.placed]
    assert turns == sorted(turns)


@given(queues(), clusters())
def test_the_first_job_that_could_run_and_fits_does_run(jobs: list[WaitingJob], workers: list[OfferingWorker]) -> None:
    result = plan(jobs, workers, NOW)
    able = [job for job in order(jobs) if could_run_alone(job, workers)]
    placed = {placement.job_id for placement in result.placed}
    for job in able:
        fits = max(num_free(result, workers, job, jobs).values()) >= job.num_devices
        assert (job.id in placed) == fits
        if not fits:
            break  # whoever is behind waits


@given(queues(), clusters())
def test_every_reason_is_true_and_none_is_missing(jobs: list[WaitingJob], workers: list[OfferingWorker]) -> None:
    result = plan(jobs, workers, NOW)
    largest = max((len(worker.devices) for worker in workers), default=0)
    placed = {placement.job_id for placement in result.placed}
    for job in jobs:
        if job.id in placed:
            continue
        reasons = {reason.code: reason.text for reason in result.reasons[job.id]}
        assert len(reasons) == len(result.reasons[job.id])
        free = num_free(result, workers, job, jobs)
        ahead = [
            other.id
            for other in order(jobs)[: order(jobs).index(job)]
            if other.id not in placed and could_run_alone(other, workers)
        ]
        able = could_run_alone(job, workers)
        assert (ReasonCode.HELD in reasons) == job.held
        assert (ReasonCode.NO_WORKERS in reasons) == (not workers)
        assert (ReasonCode.NEVER_FITS in reasons) == (bool(workers) and job.num_devices > largest)
        assert (ReasonCode.BACKOFF in reasons) == (job.eligible_at is not None and job.eligible_at > NOW)
        assert (ReasonCode.RESOURCES in reasons) == (able and max(free.values()) < job.num_devices)
        assert (ReasonCode.PRIORITY in reasons) == (able and bool(ahead))
        check_arithmetic(reasons, job, free, ahead)


def check_arithmetic(reasons: dict[ReasonCode, str], job: WaitingJob, free: dict[str, int], ahead: list[int]) -> None:
    """The numbers in the texts are the numbers of the plan."""
    if text := reasons.get(ReasonCode.RESOURCES):
        found = re.match(r"it needs (\d+) devices?; the best worker, (\w+), has (\d+) free", text)
        assert found
        needed, best, there = found.groups()
        assert int(needed) == job.num_devices
        assert int(there) == free[best] == max(free.values())
    if text := reasons.get(ReasonCode.PRIORITY):
        number = int(text.split()[0])
        assert number == len(ahead)
        named = [int(one) for one in re.findall(r"\d+", text.split("(")[1])]
        assert named == ahead[: len(named)]
        assert len(named) == min(number, 5)
    if text := reasons.get(ReasonCode.HELD):
        assert f"dljobs release {job.id}" in text


@given(queues(), clusters(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    jobs: list[WaitingJob], workers: list[OfferingWorker], draw: random.Random
) -> None:
    expected = plan(jobs, workers, NOW)
    shuffled_jobs, shuffled_workers = draw.sample(jobs, len(jobs)), draw.sample(workers, len(workers))
    found = plan(shuffled_jobs, shuffled_workers, NOW)
    assert found.placed == expected.placed
    assert found.reasons == expected.reasons


@given(queues(), clusters())
def test_what_was_planned_leaves_nothing_to_plan(jobs: list[WaitingJob], workers: list[OfferingWorker]) -> None:
    """Planning again, with the placements as leases, places nothing more and changes no reason's code."""
    first = plan(jobs, workers, NOW)
    holder = {device_id: placed.job_id for placed in first.placed for device_id in placed.device_ids}
    occupied = [
        replace(
            worker,
            devices=tuple(replace(device, job_id=holder.get(device.id, device.job_id)) for device in worker.devices),
        )
        for worker in workers
    ]
    again = plan([job for job in jobs if job.id in first.reasons], occupied, NOW)
    assert again.placed == []
    for job_id, reasons in again.reasons.items():
        assert [reason.code for reason in reasons] == [reason.code for reason in first.reasons[job_id]]


# By example


def job(job_id: int, num_devices: int = 1, priority: int = 50, **fields: float) -> WaitingJob:
    return WaitingJob(job_id, num_devices, priority, submitted_at=float(job_id), **fields)


def worker(worker_id: int, *held_by: int | None) -> OfferingWorker:
    devices = tuple(OfferedDevice(worker_id * 10 + number, job_id) for number, job_id in enumerate(held_by))
    return OfferingWorker(worker_id, f"w{worker_id}", devices)


def test_a_job_takes_the_tightest_gap() -> None:
    result = plan([job(1, 2)], [worker(1, None, None, None, None), worker(2, 9, None, None)], NOW)
    assert [(placed.worker_id, placed.device_ids) for placed in result.placed] == [(2, (21, 22))]


def test_a_large_job_keeps_small_ones_behind_it_waiting() -> None:
    result = plan([job(1, 4), job(2, 1)], [worker(1, None, None, None, 9)], NOW)
    assert result.placed == []
    assert [reason.code for reason in result.reasons[2]] == [ReasonCode.PRIORITY]
    assert result.reasons[2][0].text == "1 job is ahead (1)"
    assert result.reasons[1][0].text == "it needs 4 devices; the best worker, w1, has 3 free (held by job 9)"


def test_a_job_that_fits_nowhere_blocks_nobody() -> None:
    result = plan([job(1, 5), job(2, 1)], [worker(1, None, None)], NOW)
    assert [placed.job_id for placed in result.placed] == [2]
    assert result.reasons[1][0].text == "it needs 5 devices on one worker; the largest worker has 2"


def test_priority_comes_before_age() -> None:
    result = plan([job(1), job(2, priority=90)], [worker(1, None)], NOW)
    assert [placed.job_id for placed in result.placed] == [2]


def test_devices_of_two_workers_are_never_one_placement() -> None:
    result = plan([job(1, 3)], [worker(1, None, None), worker(2, None, None)], NOW)
    assert result.placed == []
    assert [reason.code for reason in result.reasons[1]] == [ReasonCode.NEVER_FITS]


def test_nothing_to_do() -> None:
    assert plan([], [], NOW) == Plan()
    result = plan([job(1)], [], NOW)
    assert "dljobs worker" in result.reasons[1][0].text
