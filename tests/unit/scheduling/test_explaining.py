"""Every job that waits has true reasons, and starts when they are gone; the sentences have the plan's numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given

from dljobs.service.scheduling.expectations import expected_starts
from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.reasons import SEVERITY, Reason, ReasonCode
from dljobs.service.scheduling.rows import (
    Condition,
    Dependency,
    Limit,
    OfferedDevice,
    OfferingWorker,
    Policy,
    Progress,
    Selector,
    Share,
    Sharer,
    Snapshot,
    WaitingJob,
)
from dljobs.service.scheduling.sharing import is_enough, room_of

from .clusters import MANY, NOW, handed_over, idle_workers, is_usable, job, policies, runs, snapshots, worker


def codes(reasons: list[Reason]) -> list[ReasonCode]:
    return [reason.code for reason in reasons]


def explain(snapshot: Snapshot, job_id: int, policy: Policy | None = None) -> list[Reason]:
    return Explainer(plan(snapshot, policy or Policy())).reasons(job_id)


@MANY
@given(snapshots(), policies)
def test_whoever_does_not_start_has_a_reason(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    explainer = Explainer(result)
    placed = {placed.job_id for placed in result.placed}
    for each in snapshot.waiting:
        reasons = explainer.reasons(each.id)
        assert bool(reasons) == (each.id not in placed)
        severities = [SEVERITY[reason.code] for reason in reasons]
        assert severities == sorted(severities)
        assert all(reason.text for reason in reasons)


@MANY
@given(snapshots(), policies)
def test_without_its_reasons_a_job_starts(snapshot: Snapshot, policy: Policy) -> None:
    """Each reason named is taken away, and nothing else is changed."""
    # Fair share charges what waits and what has run, not what has just started: the order would be another.
    policy = replace(policy, fair_share=False)
    result = plan(snapshot, policy)
    explainer = Explainer(result)
    after = handed_over(snapshot, result)
    for each in after.waiting:
        cured, its_policy = _cured(after, policy, each, explainer)
        assert each.id in {placed.job_id for placed in plan(cured, its_policy).placed}


def _cured(snapshot: Snapshot, policy: Policy, waiting: WaitingJob, explainer: Explainer) -> tuple[Snapshot, Policy]:
    found = set(codes(explainer.reasons(waiting.id)))
    # Those that do not wait for devices would only be in the way of what the cure brings.
    others = [each for each in explainer.contenders if each.id != waiting.id]
    workers = list(snapshot.workers)
    if ReasonCode.HELD in found:
        waiting = replace(waiting, held=False)
    if found & {ReasonCode.DEPENDENCY, ReasonCode.DEPENDENCY_NEVER_SATISFIED}:
        waiting = replace(waiting, after=())
    if ReasonCode.BEGIN_TIME in found:
        waiting = replace(waiting, begin_at=None)
    if ReasonCode.BACKOFF in found:
        waiting = replace(waiting, eligible_at=None)
    if ReasonCode.LIMIT in found:
        policy, snapshot = (
            replace(policy, user_limits={}, tag_limits={}),
            replace(snapshot, max_parallel={}),
        )
    if ReasonCode.QUOTA in found:
        snapshot = replace(snapshot, over_quota={})
    shut = {ReasonCode.NODE_DRAINED, ReasonCode.QUARANTINED}
    if found & {ReasonCode.RESOURCES, ReasonCode.NEVER_FITS, ReasonCode.NO_WORKERS, *shut}:
        workers += idle_workers(waiting)
        if ReasonCode.RESOURCES not in found:
            others = []  # whom the new worker would serve as well
    if ReasonCode.PRIORITY in found:
        before = {each.id for each in explainer.before(waiting.id)}
        others = [each for each in others if each.id not in before]
    return replace(snapshot, waiting=[*others, waiting], workers=workers), policy


@MANY
@given(snapshots(), policies)
def test_reasons_are_true(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    explainer = Explainer(result)
    after = handed_over(snapshot, result)
    for each in after.waiting:
        found = set(codes(explainer.reasons(each.id)))
        met = [dependency.is_met for dependency in each.after]
        assert (ReasonCode.HELD in found) == each.held
        assert (ReasonCode.BEGIN_TIME in found) == (each.begin_at is not None and each.begin_at > NOW)
        assert (ReasonCode.BACKOFF in found) == (each.eligible_at is not None and each.eligible_at > NOW)
        dependency_codes = {ReasonCode.DEPENDENCY, ReasonCode.DEPENDENCY_NEVER_SATISFIED}
        assert bool(found & dependency_codes) == (not all(met))
        assert (ReasonCode.NO_WORKERS in found) == (not after.workers)
        fits_now, fits_ever = _fits(each, after.workers)
        assert (ReasonCode.RESOURCES in found) == (fits_ever and not fits_now)
        if ReasonCode.NEVER_FITS in found:
            assert not fits_ever
        if ReasonCode.PRIORITY in found:
            ahead = {one.id for one in explainer.contenders}
            assert ahead & {one.id for one in explainer.before(each.id)}


def _most_free(waiting: WaitingJob, workers: Sequence[OfferingWorker]) -> int:
    """The most devices that are free for it on a worker that could hold it, or a part of it."""
    most = 0
    for each in workers:
        if each.drained is None and waiting.selector.allows(each):
            fitting = [device for device in filter(is_usable, each.devices) if waiting.selector.accepts(device)]
            if waiting.may_span or len(fitting) >= waiting.num_devices:
                most = max(most, sum(_has_room(device, waiting) for device in fitting))
    return most


def _has_room(device: OfferedDevice, waiting: WaitingJob) -> bool:
    share = waiting.selector.share
    if device.is_free or share is None:
        return device.is_free
    return device.job_id is None and is_enough(room_of(device, device.sharers), share, device)


def _fits(waiting: WaitingJob, workers: Sequence[OfferingWorker]) -> tuple[bool, bool]:
    """Whether the workers hold the job: with what is free, and if nothing ran."""
    answers = []
    for is_free in (True, False):
        room: dict[tuple[bool, str], int] = {}  # by kind and node
        for each in workers:
            if each.drained is None and each.devices and waiting.selector.allows(each):
                usable = filter(is_usable, each.devices)
                able = [d for d in usable if waiting.selector.accepts(d) and (not is_free or _has_room(d, waiting))]
                place = (each.devices[0].is_cpu, each.node)
                room[place] = max(room.get(place, 0), len(able))
        ways = range(1, waiting.num_devices + 1) if waiting.may_spread else [waiting.num_nodes]
        answers.append(
            any(
                sum(number * ways_ >= waiting.num_devices for (cpu, _node), number in room.items() if cpu is kind)
                >= ways_
                for ways_ in ways
                if waiting.num_devices % ways_ == 0
                for kind in (True, False)
            )
        )
    return answers[0], answers[1]


@MANY
@given(snapshots(), policies)
def test_the_numbers_in_the_sentences(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    explainer = Explainer(result)
    after = handed_over(snapshot, result)
    for each in after.waiting:
        texts = {reason.code: reason.text for reason in explainer.reasons(each.id)}
        text = texts.get(ReasonCode.RESOURCES)
        if text and each.selector.share is not None:
            assert text.startswith(f"it needs {each.selector.share.percent / 100:g} of a device")
            left = re.search(r"has (\d\S*)(?: and (-?\S+) GB of memory)? left", text)
            rooms = [room_of(d, d.sharers) for w in after.workers for d in w.devices if d.sharers]
            assert (left is None) or (float(left[1]) in [room.percent / 100 for room in rooms])
        elif text:
            best = r"node \w+ has" if each.may_span else r"the best worker, \w+, has"
            numbers = re.match(rf"it needs (?:at least )?(\d+) devices?.*; {best} (\d+) free", text)
            assert numbers
            assert int(numbers[1]) == each.num_devices
            assert int(numbers[2]) == _most_free(each, after.workers)
        if text := texts.get(ReasonCode.PRIORITY):
            named = [int(one) for one in re.findall(r"\d+", text.split("(")[1].split(")")[0])]
            assert len(named) == min(int(text.split()[0]), 5)
            assert each.id not in named
        if text := texts.get(ReasonCode.HELD):
            assert f"dljobs release {each.id}" in text


@MANY
@given(snapshots(), policies)
def test_places_count_those_that_wait_for_devices(snapshot: Snapshot, policy: Policy) -> None:
    explainer = Explainer(plan(snapshot, policy))
    places = [explainer.place(each.id) for each in explainer.contenders]
    assert places == list(range(1, len(places) + 1))
    others = {each.id for each in snapshot.waiting} - {each.id for each in explainer.contenders}
    assert all(explainer.place(job_id) is None for job_id in others)


@MANY
@given(snapshots())
def test_whoever_has_a_reservation_is_expected_to_start_then(snapshot: Snapshot) -> None:
    result = plan(snapshot)
    explainer = Explainer(result)
    starts = expected_starts(result, explainer.contenders)
    assert all(at >= NOW for at in starts.values())
    for each in explainer.contenders[:1]:
        reservation = next(iter(result.reservations_of(each.id)), None)
        if reservation is not None and not result.preempted:  # what those leave over may be enough sooner
            assert starts.get(each.id, float("inf")) == reservation.start_at
        elif reservation is not None:
            assert starts.get(each.id, float("inf")) <= reservation.start_at


@MANY
@given(snapshots(), policies)
def test_no_more_of_a_set_are_expected_at_a_time_than_may_run(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    starts = expected_starts(result, Explainer(result).starters)
    durations = {each.id: each.duration_s or float("inf") for each in snapshot.waiting}
    for set_id, most in snapshot.max_parallel.items():
        members = {each.id for each in (*snapshot.waiting, *snapshot.running) if each.set_id == set_id}
        held = {job_id: end_at for job_id, end_at in result.ends.items() if job_id in members}
        foreseen = {job_id: at for job_id, at in starts.items() if job_id in members and job_id not in held}
        reserved = {each.job_id for each in result.reserved.values()}
        for job_id, at in foreseen.items():
            others = sum(end_at > at for end_at in held.values())
            others += sum(start_at <= at < start_at + durations[other] for other, start_at in foreseen.items())
            assert others <= most or job_id in reserved  # itself among them


# By example


def test_all_reasons_at_once_worst_first() -> None:
    waiting = job(
        1, 2, held=True, begin_at=NOW + 60, after=(Dependency(7, Condition.OK, Progress.PENDING),), user="bob"
    )
    policy = Policy(user_limits={"*": Limit(running_jobs=1)})
    found = explain(Snapshot(NOW, [waiting], [worker(1, None, 9)], [runs(9)]), 1, policy)
    assert codes(found) == [
        ReasonCode.HELD, ReasonCode.LIMIT, ReasonCode.DEPENDENCY, ReasonCode.BEGIN_TIME, ReasonCode.RESOURCES,
    ]  # fmt: skip
    assert [reason.text for reason in found] == [
        "it is held; let it go with `dljobs release 1`",
        "user bob may have 1 job running and has 1",
        "it waits for job 7 to succeed",
        "it is to begin in 1m00s, not before",
        "it needs 2 devices; the best worker, w1, has 1 free (the rest is held by job 9);"
        " it would fit now with --gpus 1",
    ]


def test_a_limit_below_what_a_job_needs_is_not_waited_for() -> None:
    policy = Policy(user_limits={"*": Limit(running_devices=2)})
    workers = [worker(1, None, None, None, 9)]
    snapshot = Snapshot(NOW, [job(1, 3, user="bob"), job(2, 2, user="bob")], workers, [runs(9, user="bob")])
    assert [reason.text for reason in explain(snapshot, 1, policy)] == [
        "user bob may have 2 devices running, never the 3 that it needs"
    ]
    assert explain(snapshot, 2, policy)[0].text == "user bob may have 2 devices running and has 1: 2 more would be 3"


def test_who_holds_the_devices_and_until_when() -> None:
    snapshot = Snapshot(NOW, [job(1, 4), job(2, 2)], [worker(1, None, None, None, 9)], [runs(9, for_s=720.0)])
    assert [reason.text for reason in explain(snapshot, 1)] == [
        "it needs 4 devices; the best worker, w1, has 3 free (the rest is held by job 9, which ends in about 12m00s);"
        " w1 is kept for it and has enough in about 12m00s; it would fit now with --gpus 2"
    ]
    [behind] = explain(snapshot, 2)
    assert behind.code == ReasonCode.PRIORITY
    assert behind.text == (
        "1 job is ahead (1); the 3 devices free on w1 are kept for job 1, which starts in about 12m00s:"
        " a job that ends before can run there (--time)"
    )


def test_what_is_left_of_a_shared_device() -> None:
    half, most = Selector(share=Share(50)), Selector(share=Share(75, 8 * 10**9))
    sharers = (Sharer(8, 25, 20 * 10**9), Sharer(9, 50, 40 * 10**9))
    device = OfferedDevice(11, None, "h100", 80 * 10**9, sharers=sharers)
    running = [runs(8), runs(9, for_s=60.0)]
    snapshot = Snapshot(
        NOW, [job(1, selector=half), job(2, selector=most)], [OfferingWorker(1, "w1", (device,))], running
    )
    assert [reason.text for reason in explain(snapshot, 1)] == [
        "it needs 0.5 of a device; no device is free, and of the shared ones the best, on w1, has 0.25 and 20 GB of"
        " memory left (held by jobs 8, 9; job 9 ends in about 1m00s); w1 is kept for it and has enough in about 1m00s"
    ]
    resources, priority = explain(snapshot, 2)
    assert resources.text.startswith("it needs 0.75 of a device (8 GB of memory); no device is free")
    assert priority.text == "1 job is ahead (1)"


def test_a_whole_job_never_meets_a_shared_one() -> None:
    device = OfferedDevice(11, None, "h100", None, sharers=(Sharer(8, 25),))
    [reason] = explain(Snapshot(NOW, [job(1)], [OfferingWorker(1, "w1", (device,))], [runs(8)]), 1)
    assert reason.text == "it needs 1 device; the best worker, w1, has 0 free (held by job 8)"


def test_a_range_waits_for_its_least() -> None:
    waiting = job(1, 2, most_devices=8)
    [reason] = explain(Snapshot(NOW, [waiting], [worker(1, None, 9, 9)], [runs(9, 2)]), 1)
    assert reason.text.startswith("it needs at least 2 devices (2-8 were asked for); the best worker, w1, has 1 free")
    assert reason.text.endswith("; it would fit now with --gpus 1-8")


def test_the_best_worker_is_one_that_could_hold_the_job() -> None:
    snapshot = Snapshot(NOW, [job(1, 3)], [worker(1, None, None), worker(2, 9, 9, 8)], [runs(9, 2), runs(8)])
    [reason] = explain(snapshot, 1)
    words = "it needs 3 devices; the best worker, w2, has 0 free (held by jobs 8, 9); it would fit now with --gpus 1"
    assert reason.text == words


@pytest.mark.parametrize(("asked", "num_free", "advised"), [(8, 7, 4), (6, 5, 3), (7, 6, 1), (9, 3, 3)])
def test_fewer_devices_that_are_advised_share_out_the_same_batch(asked: int, num_free: int, advised: int) -> None:
    devices = [None] * num_free + [9] * (asked - num_free)
    [reason] = explain(Snapshot(NOW, [job(1, asked)], [worker(1, *devices)], [runs(9, asked - num_free)]), 1)
    assert reason.text.endswith(f"; it would fit now with --gpus {advised}")


def test_the_most_that_there_is_in_equal_parts() -> None:
    workers = [worker(1, *[None] * 4), worker(2, None, None), worker(3, None, None)]
    [reason] = explain(Snapshot(NOW, [job(1, 8, may_spread=True)], workers), 1)
    words = "it needs 8 devices, on one node or in equal parts on several; the most that there is so is 6"
    assert reason == Reason(ReasonCode.NEVER_FITS, words)


def test_a_kind_that_nobody_has() -> None:
    snapshot = Snapshot(NOW, [job(1, selector=Selector(device_type="h100"))], [worker(1, None)])
    [reason] = explain(snapshot, 1)
    assert reason.code == ReasonCode.NEVER_FITS
    assert reason.text == "it needs 1 device on one worker (type h100); no worker has any"


@pytest.mark.parametrize(
    ("condition", "progress", "code"),
    [
        (Condition.OK, Progress.SUCCEEDED, None),
        (Condition.OK, Progress.FAILED, ReasonCode.DEPENDENCY_NEVER_SATISFIED),
        (Condition.FAIL, Progress.FAILED, None),
        (Condition.FAIL, Progress.SUCCEEDED, ReasonCode.DEPENDENCY_NEVER_SATISFIED),
        (Condition.ANY, Progress.FAILED, None),
        (Condition.ANY, Progress.SUCCEEDED, None),
        (Condition.ANY, Progress.PENDING, ReasonCode.DEPENDENCY),
    ],
)
def test_dependencies(condition: Condition, progress: Progress, code: ReasonCode | None) -> None:
    waiting = job(1, after=(Dependency(7, condition, progress),))
    found = explain(Snapshot(NOW, [waiting], [worker(1, None)]), 1)
    assert codes(found) == ([] if code is None else [code])
    assert all("job 7" in reason.text for reason in found)


def test_a_drained_node_says_why() -> None:
    workers = [worker(1, None, None, drained="a fan is broken"), worker(2, 9)]
    [reason] = explain(Snapshot(NOW, [job(1, 2)], workers, [runs(9)]), 1)
    assert reason == Reason(ReasonCode.NODE_DRAINED, "node n1 would have the devices but is drained: a fan is broken")
    both = explain(Snapshot(NOW, [job(1)], workers, [runs(9)]), 1)
    assert codes(both) == [ReasonCode.NODE_DRAINED, ReasonCode.RESOURCES]


def test_a_quarantined_device_says_why() -> None:
    broken = replace(worker(1, None, None), devices=(OfferedDevice(10, quarantined="it burns"), OfferedDevice(11)))
    [reason] = explain(Snapshot(NOW, [job(1, 2)], [broken]), 1)
    words = "1 device of w1 is quarantined: it burns (`dljobs gpu list`)"
    assert reason == Reason(ReasonCode.QUARANTINED, words)
    held = replace(broken, devices=(broken.devices[0], OfferedDevice(11, 9)))
    assert codes(explain(Snapshot(NOW, [job(1)], [held], [runs(9)]), 1)) == [
        ReasonCode.QUARANTINED, ReasonCode.RESOURCES,
    ]  # fmt: skip
    assert codes(explain(Snapshot(NOW, [job(1, 2)], [held], [runs(9)]), 1)) == [ReasonCode.QUARANTINED]
    assert codes(explain(Snapshot(NOW, [job(1, 3)], [held], [runs(9)]), 1)) == [ReasonCode.NEVER_FITS]


def test_device_types_are_whole_words() -> None:
    a10, a100 = (OfferedDevice(1, None, name, 24 * 10**9) for name in ("NVIDIA A10", "NVIDIA A100-SXM4-40GB"))
    assert not Selector(device_type="a10").accepts(a100)
    assert Selector(device_type="a10").accepts(a10)
    assert Selector(device_type="RTX-4090").accepts(OfferedDevice(1, None, "NVIDIA GeForce RTX 4090"))
    assert not Selector(memory_bytes=1).accepts(OfferedDevice(1))
