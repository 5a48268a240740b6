"""Quotas: what was had within a period to the second, when enough of it is past, and that nobody starts before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.quotas import Interval, OverQuota, Quota, frees_at, used_s
from dljobs.service.scheduling.reasons import Reason, ReasonCode
from dljobs.service.scheduling.rows import Policy, Snapshot

from .clusters import MANY, NOW, job, policies, snapshots, worker

PERIOD_S = 100.0
intervals = st.lists(
    st.tuples(st.integers(0, 300), st.one_of(st.none(), st.integers(0, 200)), st.sampled_from([0.25, 1.0, 4.0])).map(
        lambda drawn: Interval(
            NOW - drawn[0], None if drawn[1] is None else min(NOW - drawn[0] + drawn[1], NOW), drawn[2]
        )
    ),
    max_size=6,
)


@MANY
@given(intervals, st.integers(1, 900))
def test_a_quota_frees_when_it_says_and_not_before(known: list[Interval], device_s: int) -> None:
    quota = Quota(float(device_s), PERIOD_S)
    moment = frees_at(known, NOW, quota)
    # All bends are whole seconds: what is below the quota anywhere between two is below it at one of their quarters.
    moments = [NOW + quarter / 4 for quarter in range(int(8 * PERIOD_S))]
    under = [at for at in moments if used_s(known, at, PERIOD_S) < quota.device_s]
    if moment is None:
        assert under == []
        return
    assert all(at >= moment - 1e-6 for at in under)
    assert used_s(known, moment, PERIOD_S) <= quota.device_s + 1e-6
    assert used_s(known, moment + 1e-3, PERIOD_S) < quota.device_s


@MANY
@given(snapshots(), policies)
def test_nobody_starts_over_a_quota(snapshot: Snapshot, policy: Policy) -> None:
    result = plan(snapshot, policy)
    jobs = {each.id: each for each in snapshot.waiting}
    for job_id in [*(placed.job_id for placed in result.placed), *result.kept]:
        mine = {("user", jobs[job_id].user), *(("tag", tag) for tag in jobs[job_id].tags)}
        assert mine.isdisjoint(snapshot.over_quota)


def test_the_reason_has_the_arithmetic_and_when_it_frees() -> None:
    known = (Interval(NOW - 7200, NOW - 3600, 2.0), Interval(NOW - 3600, None, 1.0))
    over = OverQuota(Quota(2 * 3600.0, 3 * 3600.0), known)
    snapshot = Snapshot(NOW, [job(1), job(2, user="bob")], [worker(1, None, None)], over_quota={("user", "ada"): over})
    result = plan(snapshot)
    assert [placed.job_id for placed in result.placed] == [2]
    # 3 hours used now, one more each hour until the first run, of two an hour, begins to leave in an hour: 4 then.
    words = "user ada may have 2 device-hours in 3h00m and has had 3.00; it stays so while as much runs as now"
    assert Explainer(result).reasons(1)[0] == Reason(ReasonCode.QUOTA, words)
    ended = OverQuota(over.quota, (known[0], Interval(NOW - 3600, NOW, 1.0)))
    assert ended.describe("tag lab", NOW) == (
        "tag lab may have 2 device-hours in 3h00m and has had 3.00; enough of that is past in about 1h30m"
    )


@pytest.mark.parametrize("at", [0.0, 50.0, 150.0])
def test_only_what_lies_within_the_period_counts(at: float) -> None:
    assert used_s([Interval(0.0, 100.0, 3.0)], at, PERIOD_S) == 3 * {0.0: 0, 50.0: 50, 150.0: 50}[at]
