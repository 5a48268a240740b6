"""What the scheduler promises for any jobs and workers: nothing twice, gangs whole, limits kept, nobody delayed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.expectations import expected_starts
from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.limits import limit_of
from dljobs.service.scheduling.planning import is_ready, plan
from dljobs.service.scheduling.rows import (
    ANYWHERE,
    Limit,
    OfferedDevice,
    OfferingWorker,
    Part,
    Policy,
    Selector,
    Share,
    Sharer,
    Snapshot,
)

from .clusters import (
    MANY,
    NOW,
    carried_out,
    is_usable,
    is_within,
    job,
    policies,
    runs,
    snapshots,
    worker,
)


@MANY
@given(snapshots(), policies)
def test_a_job_gets_devices_that_are_free_and_that_it_asked_for(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    workers = {worker.id: worker for worker in snapshot.workers}
    jobs = {job.id: job for job in snapshot.waiting}
    assert len({placed.job_id for placed in result.placed}) == len(result.placed)
    for placed in result.placed:
        job = jobs[placed.job_id]
        assert is_ready(job, NOW)
        assert job.num_devices <= len(placed.device_ids) <= max(job.most_devices, job.num_devices)
        assert len(set(placed.device_ids)) == len(placed.device_ids)
        assert len({len(part.device_ids) for part in placed.parts}) == 1, "the parts are equal"
        assert len({workers[part.worker_id].node for part in placed.parts}) == len(placed.parts)
        assert len({workers[part.worker_id].devices[0].is_cpu for part in placed.parts}) == 1
        assert len(placed.parts) == job.num_nodes or job.may_spread
        for part in placed.parts:
            on = workers[part.worker_id]
            devices = {device.id: device for device in on.devices}
            assert on.drained is None
            assert job.selector.allows(on)
            assert all(job.selector.accepts(devices[device_id]) for device_id in part.device_ids)


@MANY
@given(snapshots(), policies)
def test_a_device_is_one_jobs_or_shared_within_what_it_has(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    shares = {job.id: job.selector.share for job in snapshot.waiting}
    for placed in result.placed:
        share = shares[placed.job_id]
        assert (placed.sharer is None) == (share is None)
        if share is not None and placed.sharer is not None:
            assert placed.sharer.percent == share.percent
            assert len(placed.device_ids) == 1
    for each in carried_out(snapshot, result).workers:
        assert all(map(is_within, each.devices))


@MANY
@given(snapshots(), policies)
def test_a_range_takes_the_most_that_one_worker_has_for_it(snapshot: Snapshot, policy: Policy) -> None:
    [alone] = [replace(job, id=1) for job in snapshot.waiting[:1]] or [job(1)]
    alone = replace(alone, held=False, begin_at=None, eligible_at=None, after=())
    result = plan(
        replace(snapshot, waiting=[alone], max_parallel={}, over_quota={}),
        replace(policy, user_limits={}, tag_limits={}),
    )
    free = [
        sum(device.is_free and is_usable(device) and alone.selector.accepts(device) for device in worker.devices)
        for worker in snapshot.workers
        if worker.drained is None and alone.selector.allows(worker)
    ]
    most = min(max(free, default=0), max(alone.most_devices, alone.num_devices))
    if alone.selector.share is None and not alone.may_span:
        assert [len(placed.device_ids) for placed in result.placed] == ([most] if most >= alone.num_devices else [])


@MANY
@given(snapshots(), policies)
def test_limits_are_kept(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    placed = {placed.job_id for placed in result.placed}
    started = [job for job in snapshot.waiting if job.id in placed]
    sizes = {one.job_id: one.sharer.percent if one.sharer else 100 * len(one.device_ids) for one in result.placed}
    for kind, limits in (("user", policy.user_limits), ("tag", policy.tag_limits)):
        devices: Counter[str] = Counter()  # in hundredths
        jobs: Counter[str] = Counter()
        for each in (*snapshot.running, *started):
            for name in (each.user,) if kind == "user" else set(each.tags):
                devices[name] += sizes.get(each.id, each.size_percent)
                jobs[name] += 1
        names = {name for each in started for name in ((each.user,) if kind == "user" else each.tags)}
        for name in names:  # who started nothing may have had too much before
            limit = limit_of(limits, name)
            assert limit.running_devices is None or devices[name] <= 100 * limit.running_devices
            assert limit.running_jobs is None or jobs[name] <= limit.running_jobs


@MANY
@given(snapshots(), policies)
def test_no_more_of_a_set_run_than_may(snapshot: Snapshot, policy: Policy) -> None:
    placed = {placed.job_id for placed in plan(snapshot, policy).placed}
    had = Counter(each.set_id for each in snapshot.running)
    has = had + Counter(each.set_id for each in snapshot.waiting if each.id in placed)
    for set_id, most in snapshot.max_parallel.items():
        assert has[set_id] <= max(most, had[set_id])  # it may have been lowered while they ran


@MANY
@given(snapshots(), policies, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(snapshot: Snapshot, policy: Policy, draw: random.Random) -> None:
    shuffled = replace(
        snapshot,
        waiting=draw.sample(snapshot.waiting, len(snapshot.waiting)),
        workers=[
            replace(worker, devices=tuple(draw.sample(worker.devices, len(worker.devices))))
            for worker in draw.sample(snapshot.workers, len(snapshot.workers))
        ],
        running=draw.sample(snapshot.running, len(snapshot.running)),
    )
    expected, found = plan(snapshot, policy), plan(shuffled, policy)
    assert found.placed == expected.placed
    there, here = Explainer(expected), Explainer(found)
    for each in snapshot.waiting:
        assert here.reasons(each.id) == there.reasons(each.id)
        assert here.place(each.id) == there.place(each.id)
    assert expected_starts(found, here.contenders) == expected_starts(expected, there.contenders)


@MANY
@given(snapshots(), policies)
def test_what_was_planned_leaves_nothing_to_plan(snapshot: Snapshot, policy: Policy) -> None:
    # Fair share charges what waits and what has run, not what has just started: the order would be another.
    policy = replace(policy, fair_share=False)
    again = plan(carried_out(snapshot, plan(snapshot, policy)), policy)
    assert (again.placed, again.preempted) == ([], [])


@MANY
@given(snapshots(), policies)
def test_without_backfill_nobody_who_could_start_is_overtaken(snapshot: Snapshot, policy: Policy) -> None:
    strict = replace(policy, backfill=False, user_limits={}, tag_limits={})
    snapshot = replace(snapshot, max_parallel={}, over_quota={})
    result = plan(snapshot, strict)
    placed = {placed.job_id for placed in result.placed}
    contenders = {job.id for job in Explainer(result).contenders}
    able = [job.id in placed for job in result.order if job.id in placed | contenders]
    assert able == sorted(able, reverse=True)


# Choosing a worker


def test_a_job_takes_the_tightest_gap() -> None:
    result = plan(Snapshot(NOW, [job(1, 2)], [worker(1, None, None, None, None), worker(2, 9, None, None)]))
    assert [placed.parts for placed in result.placed] == [(Part(2, (21, 22)),)]


def test_a_small_job_leaves_whole_nodes_whole() -> None:
    workers = [worker(1, None, None), worker(2, *[None] * 6, 9, 9)]
    result = plan(Snapshot(NOW, [job(1)], workers, [runs(9, 2)]))
    assert [placed.parts[0].worker_id for placed in result.placed] == [2]


def test_a_job_that_fills_a_node_takes_it() -> None:
    workers = [worker(1, None, None), worker(2, *[None] * 6, 9, 9)]
    result = plan(Snapshot(NOW, [job(1, 2)], workers, [runs(9, 2)]))
    assert [placed.parts[0].worker_id for placed in result.placed] == [1]


def test_devices_of_two_workers_are_never_one_placement() -> None:
    assert plan(Snapshot(NOW, [job(1, 3)], [worker(1, None, None), worker(2, None, None)])).placed == []


def test_two_workers_of_a_node_are_not_two_nodes() -> None:
    together = [replace(worker(number, None), node="n1") for number in (1, 2)]
    gang = job(1, 2, num_nodes=2)
    assert plan(Snapshot(NOW, [gang], together)).placed == []
    [placed] = plan(Snapshot(NOW, [gang], [*together, worker(3, None)])).placed
    assert [part.worker_id for part in placed.parts] == [1, 3]


def test_a_range_starts_with_what_is_free() -> None:
    queue = [job(1, 2, most_devices=8), job(2, 1, most_devices=2), job(3, 1)]
    result = plan(Snapshot(NOW, queue, [worker(1, 9, None, None, None), worker(2, None)], [runs(9)]))
    assert [placed.device_ids for placed in result.placed] == [(11, 12, 13), (20,)]


def test_a_range_keeps_only_its_least_reserved() -> None:
    queue = [job(1, 2, most_devices=8), job(2, 1, duration_s=1e6)]
    result = plan(Snapshot(NOW, queue, [worker(1, 9, 9, None)], [runs(9, 2, for_s=60.0)]))
    assert [placed.job_id for placed in result.placed] == [2]
    [reservation] = result.reservations_of(1)
    assert (reservation.start_at, reservation.num_spare) == (NOW + 60, 0)


def test_a_range_takes_no_more_than_a_limit_leaves() -> None:
    policy = Policy(user_limits={"*": Limit(running_devices=3)})
    result = plan(Snapshot(NOW, [job(1, 1, most_devices=4)], [worker(1, *[None] * 4)]), policy)
    assert [len(placed.device_ids) for placed in result.placed] == [3]


def test_shares_fill_a_device_before_the_next_is_opened() -> None:
    quarter, most = Selector(share=Share(25)), Selector(share=Share(75))
    queue = [job(1, selector=most), job(2, selector=quarter), job(3, selector=quarter), job(4)]
    result = plan(Snapshot(NOW, queue, [worker(1, None, None)]))
    assert {placed.job_id: placed.device_ids for placed in result.placed} == {1: (10,), 2: (10,), 3: (11,)}


def test_a_whole_job_that_waits_is_not_kept_out_by_small_ones() -> None:
    """Their device would never fall free if more came onto it all the time."""
    half = Selector(share=Share(50))
    shared = OfferedDevice(10, None, "cpu", None, sharers=(Sharer(9, 50),))
    queue = [job(1), job(2, selector=half, duration_s=50.0), job(3, selector=half, duration_s=200.0)]
    result = plan(Snapshot(NOW, queue, [OfferingWorker(1, "w1", (shared,))], [runs(9, for_s=100.0)]))
    assert [placed.job_id for placed in result.placed] == [2]


def test_shares_end_at_the_memory_of_the_device() -> None:
    greedy = Selector(share=Share(10, memory_bytes=30 * 10**9))
    device = OfferedDevice(10, None, "h100", 80 * 10**9)
    result = plan(Snapshot(NOW, [job(n, selector=greedy) for n in range(1, 5)], [OfferingWorker(1, "w1", (device,))]))
    assert [placed.job_id for placed in result.placed] == [1, 2]


def test_a_job_that_fits_nowhere_blocks_nobody() -> None:
    result = plan(Snapshot(NOW, [job(1, 5), job(2)], [worker(1, None, None)]), Policy(backfill=False))
    assert [placed.job_id for placed in result.placed] == [2]


def test_nothing_to_do() -> None:
    assert plan(Snapshot(NOW, [], [])).placed == []
    assert plan(Snapshot(NOW, [job(1)], [])).placed == []
    assert plan(Snapshot(NOW, [], [worker(1, None)])).order == []
    assert ANYWHERE.allows(worker(1))
