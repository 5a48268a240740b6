"""Preemption, for any jobs and workers: who may be hit, how few, that it helps, and that nobody hits back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.limits import Tally
from dljobs.service.scheduling.order import effective_priority
from dljobs.service.scheduling.planning import is_ready, plan
from dljobs.service.scheduling.preemption import fewest_and_youngest
from dljobs.service.scheduling.reasons import ReasonCode
from dljobs.service.scheduling.rows import (
    ANYWHERE,
    OfferingWorker,
    Part,
    Placed,
    Policy,
    Preempted,
    RunningJob,
    Snapshot,
    WaitingJob,
)

from .clusters import (
    MANY,
    NOW,
    carried_out,
    clusters,
    gone,
    hold,
    is_usable,
    job,
    policies,
    runs,
    snapshots,
    whole_jobs,
    worker,
)

Snapshots = tuple[list[OfferingWorker], list[RunningJob]]


def low(job_id: int, num_devices: int = 1, **fields: object) -> RunningJob:
    """A preemptible job of a low priority; those with larger ids are younger."""
    values = {"priority": 10, "started_at": NOW - 1000 + job_id, "is_preemptible": True, **fields}
    return replace(runs(job_id, num_devices), **values)  # type: ignore[arg-type]


def _contested(snapshot: Snapshot) -> Snapshot:
    """Hardly a device is free; what waits is important and not choosy, and most of what runs is not important."""
    simple = {"held": False, "begin_at": None, "eligible_at": None, "after": (), "selector": ANYWHERE}
    waiting = [replace(each, priority=max(each.priority, 60), **simple) for each in snapshot.waiting]  # type: ignore[arg-type]
    running = [replace(each, priority=min(each.priority, 50), is_preemptible=True) for each in snapshot.running]
    free = [(place.id, d.id) for place in snapshot.workers for d in place.devices if d.is_free and d.id % 4]
    filled = [Placed(3_000_000 + device_id, (Part(on, (device_id,)),)) for on, device_id in free]
    running += [low(each.job_id, started_at=NOW - 100 + each.job_id % 7) for each in filled]
    return replace(snapshot, waiting=waiting, running=running, workers=hold(snapshot.workers, filled))


contested = st.one_of(snapshots(), *[snapshots().map(_contested)] * 3)


def may_go(victim: RunningJob, for_whom: WaitingJob, policy: Policy) -> bool:
    """The rule, in other words."""
    is_marked = victim.is_preemptible or victim.priority < policy.preemptible_below
    is_spared = victim.was_preempted and victim.started_at + policy.min_run_s > NOW
    is_spared = is_spared or victim.share_percent < 100
    is_lower = victim.priority < for_whom.priority
    waited = effective_priority(victim, victim.started_at, policy)
    return is_marked and not is_spared and is_lower and waited < effective_priority(for_whom, NOW, policy)


@MANY
@given(contested, policies)
def test_only_those_that_may_go_are_hit_and_once(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    waiting = {job.id: job for job in snapshot.waiting}
    running = {job.id: job for job in snapshot.running}
    victims = [each.job_id for each in result.preempted]
    assert len(victims) == len(set(victims))
    for each in result.preempted:
        assert may_go(running[each.job_id], waiting[each.for_job_id], policy)
        assert each.job_id in result.kept[each.for_job_id].waits_for
    assert {each.for_job_id for each in result.preempted} <= set(result.kept)


@MANY
@given(contested, policies)
def test_whoever_preempts_starts_as_soon_as_the_others_have_gone(snapshot: Snapshot, policy: Policy) -> None:
    # Fair share charges what waits and what has run, not what has just started: the order would be another.
    policy = replace(policy, fair_share=False)
    first = plan(snapshot, policy)
    after = carried_out(snapshot, first)
    waits = plan(after, policy)
    assert {job_id: each.parts for job_id, each in waits.kept.items()} == {
        job_id: each.parts for job_id, each in first.kept.items()
    }, "devices go on being kept until all have gone"
    for job_id in first.kept:
        assert [reason.code for reason in Explainer(waits).reasons(job_id)] == [ReasonCode.RESOURCES]
    starts = {placed.job_id: placed.parts for placed in plan(gone(after), policy).placed}
    assert {job_id: starts.get(job_id) for job_id in first.kept} == {
        job_id: each.parts for job_id, each in first.kept.items()
    }


@MANY
@given(contested, policies)
def test_limits_hold_for_those_that_preempt(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    jobs = {job.id: job for job in snapshot.waiting}
    stays = [job for job in snapshot.running if job.id not in {each.job_id for each in result.preempted}]
    tally = Tally(policy, stays, snapshot.max_parallel, snapshot.over_quota)
    for job_id in [*(placed.job_id for placed in result.placed), *result.kept]:
        assert tally.allows(jobs[job_id])
        tally.add(jobs[job_id])


def ways(snapshot: Snapshot, waiting: WaitingJob, policy: Policy) -> Iterator[tuple[int, list[RunningJob]]]:
    """Every worker with every set of jobs on it that may go, and whose going would let the job start there."""
    running = {job.id: job for job in snapshot.running}
    for place in snapshot.workers:
        if place.drained is not None or not waiting.selector.allows(place):
            continue
        devices = [device for device in place.devices if is_usable(device) and waiting.selector.accepts(device)]
        there = {device.job_id for device in devices if device.job_id is not None}
        able = [running[one] for one in sorted(there) if may_go(running[one], waiting, policy)]
        for number in range(len(able) + 1):
            for some in combinations(able, number):
                freed = {each.id for each in some}
                if sum(device.is_free or device.job_id in freed for device in devices) >= waiting.num_devices:
                    yield place.id, list(some)


@MANY
@given(clusters(), whole_jobs, policies)
def test_as_few_go_as_can_and_the_youngest(cluster: Snapshots, waiting: WaitingJob, policy: Policy) -> None:
    workers, running = cluster
    policy = replace(policy, user_limits={}, tag_limits={})
    snapshot = Snapshot(NOW, [waiting], workers, running)
    result = plan(snapshot, policy)
    possible = list(ways(snapshot, waiting, policy))
    assert bool(result.placed or result.kept) == (bool(possible) and is_ready(waiting, NOW))
    if not result.kept:
        return
    by_id = {job.id: job for job in running}
    hit = [by_id[each.job_id] for each in result.preempted]
    fewest = min(len(some) for _worker, some in possible)
    assert len(hit) == fewest
    [part] = result.kept[waiting.id].parts
    starts = sorted((victim.started_at for victim in hit), reverse=True)
    rivals = [some for worker_id, some in possible if worker_id == part.worker_id and len(some) == fewest]
    assert starts == max(sorted((each.started_at for each in some), reverse=True) for some in rivals)


@MANY
@given(st.lists(st.integers(1, 4), max_size=7), st.integers(0, 12))
def test_the_choice_is_the_youngest_of_the_smallest(sizes: list[int], num_missing: int) -> None:
    jobs = [(RunningJob(number, size, started_at=float(number)), size) for number, size in enumerate(sizes)]
    found = fewest_and_youngest(jobs, num_missing)
    enough = [
        sorted((one.started_at for one, _size in some), reverse=True)
        for number in range(len(jobs) + 1)
        for some in combinations(jobs, number)
        if sum(size for _one, size in some) >= num_missing
    ]
    if not enough:
        assert found is None
        return
    fewest = min(map(len, enough))
    assert found is not None
    assert [each.started_at for each in found] == max(each for each in enough if len(each) == fewest)


# By example


def test_the_youngest_of_equals_goes_and_its_devices_are_kept() -> None:
    workers = [worker(1, 7, 8, 9)]
    snapshot = Snapshot(NOW, [job(1, priority=60), job(2, priority=5)], workers, [low(7), low(8), low(9)])
    result = plan(snapshot)
    assert result.preempted == [Preempted(9, 1)]
    assert result.kept[1].device_ids == (12,)
    words = "it is to have 1 device of w1 as soon as job 9 has checkpointed and gone back in the queue"
    assert [reason.text for reason in Explainer(result).reasons(1)] == [words]
    # The job that went has the earlier place in the queue: the devices are still not for it.
    requeued = job(9, priority=10, submitted_at=0.0)
    after = gone(carried_out(snapshot, result))
    after = replace(after, waiting=[requeued, *after.waiting])
    assert [placed.job_id for placed in plan(after).placed] == [1]


def test_equals_and_the_unmarked_stay() -> None:
    workers = [worker(1, 9)]
    for held in (low(9, priority=60), low(9, is_preemptible=False), low(9, priority=61)):
        assert plan(Snapshot(NOW, [job(1, priority=60)], workers, [held])).preempted == []
    below = Policy(preemptible_below=11)
    unmarked = low(9, is_preemptible=False)
    assert plan(Snapshot(NOW, [job(1, priority=60)], workers, [unmarked]), below).preempted == [Preempted(9, 1)]


def test_no_waiting_lets_a_job_preempt_one_of_a_higher_priority() -> None:
    aged = job(1, priority=50, submitted_at=NOW - 5000)
    snapshot = Snapshot(NOW, [aged], [worker(1, 9)], [low(9, priority=60, submitted_at=NOW - 900)])
    assert plan(snapshot, Policy(ageing_s=1000.0)).preempted == []


def test_one_large_goes_rather_than_two_small() -> None:
    workers = [worker(1, 7, 8), worker(2, 9, 9)]
    running = [low(7), low(8), low(9, 2, started_at=NOW - 5000)]
    assert plan(Snapshot(NOW, [job(1, 2, priority=60)], workers, running)).preempted == [Preempted(9, 1)]


def test_who_was_preempted_runs_a_while_first() -> None:
    workers, queue = [worker(1, 9)], [job(1, priority=60)]
    again = low(9, was_preempted=True, started_at=NOW - 599)
    assert plan(Snapshot(NOW, queue, workers, [again])).preempted == []
    again = replace(again, started_at=NOW - 600)
    assert plan(Snapshot(NOW, queue, workers, [again])).preempted == [Preempted(9, 1)]


def test_what_a_job_gained_by_waiting_is_not_lost_again() -> None:
    """It went ahead of the other by its age: it is not stopped a moment later by the very same."""
    policy = Policy(ageing_s=1000.0)
    old = job(1, priority=40, submitted_at=NOW - 3000)
    young = job(2, priority=60, submitted_at=NOW)
    result = plan(Snapshot(NOW, [old, young], [worker(1, None)]), replace(policy, preemptible_below=50))
    assert [placed.job_id for placed in result.placed] == [1]
    after = carried_out(Snapshot(NOW, [old, young], [worker(1, None)]), result)
    assert plan(after, replace(policy, preemptible_below=50)).preempted == []


def test_who_is_about_to_go_anyway_frees_its_devices_for_anyone() -> None:
    workers = [worker(1, 9, 9, 8, 8)]
    running = [low(9, 2, is_leaving=True), low(8, 2)]
    result = plan(Snapshot(NOW, [job(1, 1, priority=60), job(2, 2, priority=60)], workers, running))
    assert result.preempted == [Preempted(8, 2)]
    assert result.kept[1].device_ids == (10,)
    assert result.kept[2].waits_for == (8, 9)


def test_what_is_kept_is_let_go_when_its_job_cannot_take_it() -> None:
    running, workers = [low(9, 2, is_leaving=True)], [worker(1, 9, 9)]
    waits = job(1, 2, priority=60, kept=(10, 11))
    assert plan(Snapshot(NOW, [waits], workers, running)).kept[1].waits_for == (9,)
    changes = ({"held": True}, {"begin_at": NOW + 5}, {"num_devices": 3}, {"num_nodes": 2})
    for changed in (replace(waits, **each) for each in changes):  # type: ignore[arg-type]
        assert plan(Snapshot(NOW, [changed], workers, running)).kept == {}
    taken = [replace(running[0], is_leaving=False, is_preemptible=False)]
    assert plan(Snapshot(NOW, [waits], workers, taken)).kept == {}
    lost = [replace(workers[0], devices=(workers[0].devices[0], replace(workers[0].devices[1], quarantined="hot")))]
    assert plan(Snapshot(NOW, [waits], lost, running)).kept == {}
