"""The front of the queue: the first few jobs of each line lead to the same plan, or the plan says that they may not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.planning import Plan, plan
from dljobs.service.scheduling.rows import OfferedDevice, OfferingWorker, Policy, Snapshot, WaitingJob

from .clusters import MANY, NOW, policies, snapshots


def cut(snapshot: Snapshot, length: int) -> tuple[Snapshot, set[int]]:
    """What `front.read_front` reads of a queue: the first of each line, and those that have devices kept for them."""
    lines = defaultdict(list)
    for job in sorted(snapshot.waiting, key=lambda job: (job.submitted_at, job.id)):
        lines[job.held, job.user, job.priority].append(job)
    read = {job.id for line in lines.values() for job in line[:length]}
    waiting = [job for job in snapshot.waiting if job.id in read or job.kept]
    return replace(snapshot, waiting=waiting), {line[length - 1].id for line in lines.values() if len(line) >= length}


def decisions(decided: Plan) -> tuple[object, ...]:
    """All of a plan that dispatch acts on."""
    return decided.placed, decided.preempted, decided.kept


@MANY
@given(snapshots(), policies, st.integers(1, 4))
def test_a_plan_of_the_front_is_the_plan_unless_it_went_beyond(snapshot: Snapshot, policy: Policy, length: int) -> None:
    front, last_ids = cut(snapshot, length)
    decided = plan(front, policy)
    if not decided.went_beyond(last_ids):
        assert decisions(decided) == decisions(plan(snapshot, policy))


def queue_of(number: int, **fields: object) -> list[WaitingJob]:
    return [WaitingJob(each, 1, 50, NOW - 1000 + each, **fields) for each in range(1, number + 1)]  # type: ignore[arg-type]


def test_the_front_is_enough_where_devices_run_out_first() -> None:
    worker = OfferingWorker(1, "w1", tuple(OfferedDevice(each) for each in range(1, 4)))
    snapshot = Snapshot(NOW, queue_of(100), [worker])
    front, last_ids = cut(snapshot, 3)
    assert not plan(front).went_beyond(last_ids), "three devices, three jobs: nobody asks for a fourth"
    front, last_ids = cut(snapshot, 2)
    assert plan(front).went_beyond(last_ids), "there is a device left, and there may be somebody for it"


def test_a_plan_without_room_needs_nobody() -> None:
    front, last_ids = cut(Snapshot(NOW, queue_of(100), []), 1)
    assert not plan(front).went_beyond(last_ids)
