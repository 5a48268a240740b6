"""The order of the queue: priority with its ageing, fair share, submission; and the bound on who may come first."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.order import effective_priority, in_order, overtaking_bound_s
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.rows import Policy, RunningJob, Snapshot, WaitingJob

from .clusters import MANY, NOW, USERS, hold, job, policies, queues, without, worker

FIFO = Policy(fair_share=False)


@given(queues, policies, st.dictionaries(st.sampled_from(USERS), st.floats(0, 1e9)))
def test_effective_priority_decides_first(jobs: list[WaitingJob], policy: Policy, usage: dict[str, float]) -> None:
    ordered = in_order(jobs, usage, NOW, policy)
    assert sorted(job.id for job in ordered) == sorted(job.id for job in jobs)
    levels = [effective_priority(job, NOW, policy) for job in ordered]
    assert levels == sorted(levels, reverse=True)


@given(queues, policies, st.dictionaries(st.sampled_from(USERS), st.floats(0, 1e9)))
def test_a_users_own_jobs_keep_their_order(jobs: list[WaitingJob], policy: Policy, usage: dict[str, float]) -> None:
    for user in USERS:
        mine = [job for job in in_order(jobs, usage, NOW, policy) if job.user == user]
        assert mine == in_order(mine, {}, NOW, FIFO if policy.ageing_s == FIFO.ageing_s else policy)
        keys = [(-effective_priority(job, NOW, policy), job.submitted_at, job.id) for job in mine]
        assert keys == sorted(keys)


@MANY
@given(
    st.integers(0, 100), st.integers(0, 100), st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e6), policies,
    st.dictionaries(st.sampled_from(USERS), st.floats(0, 1e9)),
)  # fmt: skip
def test_nobody_submitted_beyond_the_bound_is_ever_ahead(
    old: int, young: int, submitted_at: float, later_s: float, waits_s: float, policy: Policy, usage: dict[str, float]
) -> None:
    """At any time, whatever the priorities and the fair shares: so only so many jobs can ever come first."""
    older = job(1, priority=old, submitted_at=submitted_at, user="ada")
    younger_at = submitted_at + overtaking_bound_s(old, policy) + later_s
    younger = job(2, priority=young, submitted_at=younger_at, user="bob")
    assert in_order([younger, older], usage, younger_at + waits_s, policy)[0] is older


def test_the_default_bound_is_days() -> None:
    assert overtaking_bound_s(50, Policy()) == 6 * 86400
    assert overtaking_bound_s(0, Policy()) == 11 * 86400


def test_a_large_job_of_no_priority_starts_within_the_bound() -> None:
    """Every 3 minutes somebody submits small jobs of the highest priority that fill the cluster until then."""
    policy = Policy(ageing_s=600.0)
    large = job(1, 4, priority=0, submitted_at=NOW, user="eve", duration_s=60.0)
    waiting, running, workers = [large], list[RunningJob](), [worker(1, None, None, None, None)]
    for turn in range(100):
        now = NOW + 180 * turn
        over = {each.id for each in running if (each.expected_end_at or 0) <= now}
        workers = without(workers, over)
        running = [each for each in running if each.id not in over]
        new = [job(turn * 4 + n + 2, 1, priority=100, submitted_at=now, duration_s=180.0) for n in range(4)]
        waiting = [*waiting, *new]
        result = plan(Snapshot(now, waiting, workers, running), policy)
        placed = {placed.job_id: placed for placed in result.placed}
        if 1 in placed:
            assert 6000 <= now - NOW <= overtaking_bound_s(0, policy) + 180.0
            return
        workers = hold(workers, result.placed)
        running += [RunningJob(one.id, 1, one.user, (), now + 180.0) for one in waiting if one.id in placed]
        waiting = [one for one in waiting if one.id not in placed]
    raise AssertionError("it never started")


def test_priority_comes_before_fair_share_and_that_before_age() -> None:
    jobs = [
        job(1, user="ada", submitted_at=NOW - 3),
        job(2, user="bob", submitted_at=NOW - 2),
        job(3, user="ada", submitted_at=NOW - 1, priority=60),
    ]
    assert [each.id for each in in_order(jobs, {"ada": 1e6}, NOW, Policy())] == [3, 2, 1]
    assert [each.id for each in in_order(jobs, {}, NOW, FIFO)] == [3, 1, 2]


def test_a_larger_share_may_use_more() -> None:
    jobs = [job(1, user="ada"), job(2, user="bob")]
    usage = {"ada": 5e6, "bob": 2e6}
    assert [each.id for each in in_order(jobs, usage, NOW, Policy())] == [2, 1]
    assert [each.id for each in in_order(jobs, usage, NOW, Policy(shares={"ada": 2.0}))] == [1, 2]


def test_users_of_one_standing_go_by_submission() -> None:
    jobs = [job(1, user="ada"), job(2, user="bob")]
    order = {
        used: [each.id for each in in_order(jobs, {"ada": used, "bob": 2e6}, NOW, Policy())] for used in (3e6, 5e6)
    }
    assert order == {3e6: [1, 2], 5e6: [2, 1]}


def test_users_take_turns_however_many_jobs_one_submits() -> None:
    jobs = [*(job(n, user="ada") for n in range(1, 6)), job(6, user="bob"), job(7, user="bob")]
    assert [each.id for each in in_order(jobs, {}, NOW, Policy())] == [1, 6, 2, 7, 3, 4, 5]


def test_waiting_gains_points() -> None:
    old = job(1, priority=30, submitted_at=NOW - 2.5 * 86400)
    assert effective_priority(old, NOW, Policy()) == 50
    assert effective_priority(replace(old, submitted_at=NOW + 1), NOW, Policy()) == 30, "a clock that went back"
