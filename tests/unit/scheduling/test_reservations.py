"""Reservations, with exact durations: nobody who overtakes delays the job that they are for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.rows import (
    OfferedDevice,
    OfferingWorker,
    Policy,
    RunningJob,
    Selector,
    Share,
    Sharer,
    Snapshot,
    WaitingJob,
)

from .clusters import FIRST_RUNNING_ID, MANY, NOW, carried_out, clusters, durations, job, queues, runs, without, worker


@dataclass
class _World:
    """A cluster over time, in which jobs end when they said they would."""

    snapshot: Snapshot

    def pass_time(self) -> bool:
        """Go to the next end of a job; False if there is none."""
        ends = {job.id: job.expected_end_at for job in self.snapshot.running if job.expected_end_at is not None}
        if not ends:
            return False
        now = max(min(ends.values()), self.snapshot.now)
        over = {job_id for job_id, end_at in ends.items() if end_at <= now}
        self.snapshot = replace(
            self.snapshot,
            now=now,
            workers=without(self.snapshot.workers, over),
            running=[job for job in self.snapshot.running if job.id not in over],
        )
        return True


@MANY
@given(clusters(), queues, durations.filter(bool), st.booleans())
def test_no_reservation_is_delayed_by_who_overtakes(
    cluster: tuple[list[OfferingWorker], list[RunningJob]],
    queue: list[WaitingJob],
    default_s: float,
    is_mixed: bool,  # jobs with no duration too: they lie outside of reservations
) -> None:
    workers, running = cluster
    # One user and no ageing: the order stays as it is, so that whoever goes first has no right to.
    plain = {"user": "ada", "priority": 50, "held": False, "begin_at": None, "eligible_at": None, "after": ()}
    jobs = [
        replace(job, **plain, duration_s=job.duration_s or (None if is_mixed else default_s))  # type: ignore[arg-type]
        for job in queue
    ]
    _hold_to_what_was_promised(
        _World(Snapshot(NOW, jobs, workers, [replace(job, is_preemptible=False) for job in running]))
    )


def _hold_to_what_was_promised(world: _World) -> None:
    """To the end: whoever is first starts when its reservation said, or sooner."""
    policy = Policy(ageing_s=1e12)
    promised: dict[int, float] = {}
    while True:
        result = plan(world.snapshot, policy)
        for placed in result.placed:
            if placed.job_id in promised:
                assert world.snapshot.now <= promised.pop(placed.job_id)
        for first in Explainer(result).contenders[:1]:
            reservation = next(iter(result.reservations_of(first.id)), None)
            if reservation is not None and reservation.start_at < float("inf"):
                earlier = promised.setdefault(first.id, reservation.start_at)
                assert reservation.start_at <= earlier
        world.snapshot = carried_out(world.snapshot, result)
        if not world.pass_time():
            break
    assert not promised


@st.composite
def crowded(draw: st.DrawFn) -> _World:
    """One worker that is nearly full, a job that needs most of it, and small ones that would like to run for long."""
    devices, running = [], list[RunningJob]()
    for device_id in range(draw(st.integers(2, 5))):
        sharers = []
        for percent in draw(st.sampled_from([(), (100,), (100,), (50, 25), (25, 25), (75,)])):
            job_id = FIRST_RUNNING_ID + len(running)
            end_at = NOW + draw(st.sampled_from([20.0, 40.0, 900.0]))
            running.append(RunningJob(job_id, 1, expected_end_at=end_at, share_percent=percent))
            sharers.append(Sharer(job_id, percent))
        holder = sharers[0].job_id if sharers and sharers[0].percent == 100 else None
        devices.append(OfferedDevice(device_id, holder, sharers=() if holder is not None else tuple(sharers)))
    most = st.one_of(st.integers(1, len(devices)).map(int), st.sampled_from([Share(75), Share(50)]))
    sizes = [draw(most), *draw(st.lists(st.sampled_from([1, 1, 2, Share(25), Share(50)]), max_size=6))]
    lasts = draw(st.lists(st.sampled_from([None, 30.0, 60.0, 5000.0]), min_size=len(sizes), max_size=len(sizes)))
    queue = [
        job(number, 1, selector=Selector(share=size), duration_s=duration_s)
        if isinstance(size, Share)
        else job(number, size, duration_s=duration_s)
        for number, (size, duration_s) in enumerate(zip(sizes, lasts, strict=True))
    ]
    return _World(Snapshot(NOW, queue, [OfferingWorker(1, "w1", tuple(devices), "n1")], running))


@MANY
@given(crowded())
def test_no_reservation_is_delayed_where_it_is_crowded(world: _World) -> None:
    _hold_to_what_was_promised(world)


def test_a_small_job_overtakes_if_it_ends_in_time() -> None:
    workers = [worker(1, 9, 9, None, None)]
    queue = [job(1, 4), job(2, 2, duration_s=50.0), job(3, 2, duration_s=101.0)]
    result = plan(Snapshot(NOW, queue, workers, [runs(9, 2, for_s=100.0)]))
    assert [placed.job_id for placed in result.placed] == [2]
    reservation = result.reservations_of(1)[0]
    assert reservation is not None
    assert reservation.start_at == NOW + 100


def test_a_job_of_unknown_length_overtakes_only_outside_of_the_reservation() -> None:
    workers = [worker(1, 9, 9, None, None), worker(2, 8, None)]
    running = [runs(9, 2, for_s=100.0), runs(8)]
    result = plan(Snapshot(NOW, [job(1, 4), job(2), job(3)], workers, running))
    assert [(placed.job_id, placed.parts[0].worker_id) for placed in result.placed] == [(2, 2)]


def test_what_the_blocked_job_will_not_need_is_for_anyone() -> None:
    workers = [worker(1, 9, 9, None, None)]
    result = plan(Snapshot(NOW, [job(1, 3), job(2), job(3)], workers, [runs(9, 2, for_s=100.0)]))
    assert [placed.job_id for placed in result.placed] == [2]


def test_nothing_enters_a_worker_that_a_job_waits_for_without_a_known_end() -> None:
    """Else small jobs would keep a large one out for ever."""
    workers = [worker(1, 9, 9, None, None)]
    result = plan(Snapshot(NOW, [job(1, 4), job(2, duration_s=5.0)], workers, [runs(9, 2)]))
    assert result.placed == []


def test_shares_that_overtake_leave_what_is_kept_of_the_device() -> None:
    """When job 9 ends, half of it is free: 0.4 for job 1, and 0.1 for just one of the others."""
    shared = OfferedDevice(10, None, sharers=(Sharer(8, 50), Sharer(9, 30)))
    large, small = Selector(share=Share(40)), Selector(share=Share(10))
    queue = [job(1, selector=large), job(2, selector=small), job(3, selector=small)]
    running = [runs(8), runs(9, for_s=100.0)]
    result = plan(Snapshot(NOW, queue, [OfferingWorker(1, "w1", (shared,))], running))
    assert [placed.job_id for placed in result.placed] == [2]


def test_a_blocked_job_of_another_kind_has_a_reservation_too() -> None:
    fast, slow = Selector(labels=(("worker", "w1"),)), Selector(labels=(("worker", "w2"),))
    workers = [worker(1, 8, None), worker(2, 9, None)]
    running = [runs(8, for_s=60.0), runs(9, for_s=90.0)]
    queue = [job(1, 2, selector=fast), job(2, 2, selector=slow), job(3, duration_s=80.0)]
    result = plan(Snapshot(NOW, queue, workers, running))
    assert [(placed.job_id, placed.parts[0].worker_id) for placed in result.placed] == [(3, 2)]
    assert {each.job_id: each.start_at - NOW for each in result.reserved.values()} == {1: 60.0, 2: 90.0}
