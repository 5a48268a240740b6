"""The simulator: jobs run when the scheduler says so, for as long as they last; traces, figures and their picture."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import UsageError
from dljobs.service.simulation.plot import draw_simulation
from dljobs.service.simulation.simulator import POLICIES, RESTART_S, Estimates, Interval, Record, Simulator
from dljobs.service.simulation.summary import summarise
from dljobs.service.simulation.synthetic import STYLES, make_trace
from dljobs.service.simulation.trace import TraceJob, number_jobs, read_trace, write_trace
from tests.unit.scheduling.clusters import MANY


def simulate(jobs: list[TraceJob], policy: str = "dljobs", *, num_nodes: int = 1, node_size: int = 4) -> Record:
    return Simulator(
        jobs, num_nodes=num_nodes, node_size=node_size, policy=POLICIES[policy], estimates=Estimates.EXACT
    ).run()


def trace(style: str = "helios", **changed: float) -> list[TraceJob]:
    values = {"num_jobs": 600, "num_devices": 32, "node_size": 8, "load": 1.1, "seed": 5, **changed}
    return make_trace(STYLES[style], **values)  # type: ignore[arg-type]


# Four devices: 1 and 2 fill three of them, 3 wants all, 4 fits before it, 5 would delay it.
EXAMPLE = [
    TraceJob(1, 0.0, 2, 100.0, "ada"),
    TraceJob(2, 0.0, 1, 50.0, "bob"),
    TraceJob(3, 1.0, 4, 10.0, "ada"),
    TraceJob(4, 2.0, 1, 98.0, "bob"),
    TraceJob(5, 2.0, 1, 99.0, "eve"),
]


@pytest.mark.parametrize(
    ("policy", "starts"),
    [
        ("fifo", {1: 0.0, 2: 0.0, 3: 100.0, 4: 110.0, 5: 110.0}),
        ("backfill", {1: 0.0, 2: 0.0, 3: 100.0, 4: 2.0, 5: 110.0}),
        # When job 2 ends, eve has used nothing and ada has: job 5 goes before job 3.
        ("dljobs", {1: 0.0, 2: 0.0, 3: 149.0, 4: 2.0, 5: 50.0}),
    ],
)
def test_an_example_by_hand(policy: str, starts: dict[int, float]) -> None:
    assert simulate(EXAMPLE, policy).starts == starts


def test_the_figures_of_the_example() -> None:
    figures = summarise(simulate(EXAMPLE, "fifo"))
    assert figures.num_jobs == 5
    assert figures.makespan_s == 209.0
    assert figures.waits.mean_s == pytest.approx((99 + 108 + 108) / 5)
    assert (figures.waits.p50_s, figures.waits.p95_s) == (99.0, 108.0)
    assert figures.waits_by_size["4"].p50_s == 99.0
    assert figures.utilisation == pytest.approx(3 / 4)
    assert figures.bounded_slowdown_mean == pytest.approx((1 + 1 + 109 / 10 + 206 / 98 + 207 / 99) / 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_device_has_two_jobs_and_each_job_runs_once(policy: str) -> None:
    jobs = trace()
    record = simulate(jobs, policy, num_nodes=4, node_size=8)
    assert set(record.starts) == {job.id for job in jobs}
    changes: Counter[float] = Counter()
    for job in jobs:
        assert record.starts[job.id] >= job.submit_s
        changes[record.starts[job.id]] += job.num_devices
        changes[record.starts[job.id] + job.duration_s] -= job.num_devices
    busy = 0
    for moment in sorted(changes):
        busy += changes[moment]
        assert 0 <= busy <= 32


def test_preemption_by_hand() -> None:
    """Four devices: the urgent job takes two of the three of one that may be preempted; who needs one has the third."""
    jobs = [
        TraceJob(1, 0.0, 3, 100.0, "ada", is_preemptible=True),
        TraceJob(2, 0.0, 1, 1000.0, "ada"),
        TraceJob(3, 40.0, 2, 50.0, "bob", priority=80),
        TraceJob(4, 41.0, 1, 10.0, "bob"),
    ]
    record = simulate(jobs)
    assert record.starts == {1: 0.0, 2: 0.0, 3: 40.0, 4: 41.0}
    first, last = (run for run in record.intervals if run.job_id == 1)
    assert (first.start, first.end, first.is_preempted, first.lost_s) == (0.0, 40.0, True, 0.0)
    assert (last.start, last.end, last.is_preempted, last.lost_s) == (90.0, 90.0 + RESTART_S + 60.0, False, RESTART_S)
    figures = summarise(record)
    assert (figures.num_preemptions, figures.lost_device_s) == (1, 3 * RESTART_S)
    assert summarise(simulate(jobs, "backfill")).num_preemptions == 0


preemptible_traces = st.lists(
    st.builds(
        TraceJob,
        id=st.just(0),
        submit_s=st.sampled_from([0.0, 0.0, 10.0, 60.0, 700.0, 5000.0]),
        num_devices=st.integers(1, 4),
        duration_s=st.sampled_from([0.0, 1.0, 100.0, 1000.0, 4000.0]),
        user=st.sampled_from(["ada", "bob"]),
        priority=st.sampled_from([10, 50, 50, 90]),
        min_devices=st.sampled_from([None, 1]),
        is_preemptible=st.booleans(),
    ),
    min_size=1,
    max_size=14,
).map(number_jobs)


@MANY
@given(preemptible_traces, st.sampled_from(Estimates))
def test_whoever_is_preempted_does_all_its_work_once_and_hands_its_devices_on(
    jobs: list[TraceJob], estimates: Estimates
) -> None:
    policy = POLICIES["dljobs"]
    record = Simulator(jobs, num_nodes=2, node_size=4, policy=policy, estimates=estimates).run()
    by_id = {job.id: job for job in jobs}
    of_jobs: dict[int, list[Interval]] = {}
    for run in record.intervals:
        of_jobs.setdefault(run.job_id, []).append(run)
    assert of_jobs.keys() == by_id.keys()
    for job_id, runs in of_jobs.items():
        job = by_id[job_id]
        assert [run.is_preempted for run in runs] == [True] * (len(runs) - 1) + [False]
        assert all(before.end <= after.start for before, after in itertools.pairwise(runs))
        assert job.is_preemptible or len(runs) == 1
        # Not twice within a minimum run time.
        assert all(run.end - run.start >= policy.min_run_s for run in runs[1:-1])
        work = sum(
            (run.end - run.start - run.lost_s) / job.duration_on(int(run.held)) for run in runs if job.duration_s
        )
        assert not job.duration_s or work == pytest.approx(1.0)
        for run in runs[:-1]:
            # Somebody more important started in that moment.
            assert any(
                other.start == run.end and by_id[other.job_id].priority > job.priority for other in record.intervals
            )
    moments = {run.start for run in record.intervals}
    for moment in moments:
        assert sum(run.held for run in record.intervals if run.start <= moment < run.end) <= 8


def test_ranges_and_shares_by_hand() -> None:
    """Four devices: the range gets the two that are left and runs twice as long; four quarters share one device."""
    quarters = [TraceJob(number, 1.0, 1, 30.0, "bob", share_percent=25) for number in (3, 4, 5, 6)]
    jobs = [TraceJob(1, 0.0, 1, 60.0, "ada"), *quarters, TraceJob(2, 2.0, 4, 10.0, "ada", min_devices=1)]
    record = simulate(sorted(jobs, key=lambda job: job.submit_s))
    assert record.starts == {1: 0.0, 2: 2.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0}
    assert record.held == {1: 1.0, 2: 2.0, 3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}
    assert record.ends[2] == 22.0
    figures = summarise(record)
    assert list(figures.waits_by_size) == ["0.25", "1", "1-4"]
    assert figures.makespan_s == 60.0


@pytest.mark.parametrize("policy", POLICIES)
def test_shares_and_ranges_use_no_more_than_there_is(policy: str) -> None:
    changed = [
        replace(job, share_percent=25) if job.num_devices == 1 and job.id % 2 else
        replace(job, min_devices=1) if job.num_devices > 1 and job.id % 2 else job
        for job in trace()
    ]  # fmt: skip
    record = simulate(changed, policy, num_nodes=4, node_size=8)
    assert set(record.starts) == {job.id for job in changed}
    assert any(record.held[job.id] < job.num_devices for job in changed if job.min_devices)
    changes: Counter[float] = Counter()
    for job_id, held in record.held.items():
        changes[record.starts[job_id]] += held  # type: ignore[assignment]
        changes[record.ends[job_id]] -= held  # type: ignore[assignment]
    busy = 0.0
    for moment in sorted(changes):
        busy += changes[moment]
        assert -1e-9 <= busy <= 32 + 1e-9


def test_strict_order_overtakes_nobody() -> None:
    record = simulate(trace(), "fifo", num_nodes=4, node_size=8)
    starts = [record.starts[job.id] for job in record.jobs]
    assert starts == sorted(starts)


def test_a_job_larger_than_a_node_never_starts() -> None:
    figures = summarise(simulate([*EXAMPLE, TraceJob(6, 3.0, 5, 1.0, "eve")]))
    assert (figures.num_jobs, figures.num_never_fit) == (5, 1)


def test_the_same_seed_is_the_same_simulation() -> None:
    first, second = (simulate(trace(), num_nodes=4, node_size=8) for _ in range(2))
    assert (first.jobs, first.starts) == (second.jobs, second.starts)
    assert trace(seed=6) != trace()


def test_backfill_shortens_waits() -> None:
    found = {name: summarise(simulate(trace(num_jobs=1500), name, num_nodes=4, node_size=8)) for name in POLICIES}
    assert found["dljobs"].waits.p50_s <= found["fifo"].waits.p50_s / 2
    assert found["dljobs"].utilisation > found["fifo"].utilisation


@pytest.mark.parametrize("style", STYLES)
def test_synthetic_traces_look_like_their_sources(style: str) -> None:
    jobs = trace(style, num_jobs=20_000, num_devices=1000)
    sizes = Counter(job.num_devices for job in jobs)
    assert sizes[1] > len(jobs) / 2
    durations = [job.duration_s for job in jobs]
    assert statistics.fmean(durations) > 4 * statistics.median(durations), "a heavy tail"
    assert statistics.median(durations) == pytest.approx(STYLES[style].median_s, rel=0.6)
    per_minute = Counter(int(job.submit_s // 60) for job in jobs)
    rate = list(per_minute.values()) + [0] * (int(jobs[-1].submit_s // 60) + 1 - len(per_minute))
    assert statistics.pvariance(rate) > 2 * statistics.fmean(rate), "bursts: more than Poisson's"
    users = Counter(job.user for job in jobs).most_common()
    assert sum(number for _user, number in users[: len(users) // 10]) > len(jobs) / 3, "few submit most"


def test_the_load_is_what_was_asked_for() -> None:
    jobs = trace(num_jobs=5000, load=0.5)
    last_s = jobs[-1].submit_s
    busy = sum(job.num_devices * min(job.duration_s, last_s - job.submit_s) for job in jobs)
    assert busy / (32 * last_s) == pytest.approx(0.5, rel=0.1)


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    jobs = [*trace(num_jobs=50)[:47], TraceJob(48, 1e9, 3, 0.5, "eve, the first", 7.25, 90)]
    jobs += [TraceJob(49, 1e9, 8, 1.5, "bob", min_devices=2), TraceJob(50, 2e9, 1, 1.5, "bob", share_percent=25)]
    write_trace(tmp_path / "trace.csv", jobs)
    assert read_trace(tmp_path / "trace.csv") == jobs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column submit_s"),
        ("submit_s,devices,duration_s\n", "no column user"),
        ("submit_s,devices,duration_s,user\n", "no jobs"),
        ("submit_s,devices,duration_s,user\n0,1,x,ada\n", "line 2"),
        ("submit_s,devices,duration_s,user\n0,1,5,ada\n0,0,5,ada\n", "line 3"),
        ("submit_s,devices,duration_s,user\n0,1,nan,ada\n", "line 2"),
        ("submit_s,devices,duration_s,user\n0,1\n", "line 2"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_trace(tmp_path / "trace.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")


def test_the_picture(tmp_path: Path) -> None:
    draw_simulation({name: simulate(EXAMPLE, name) for name in POLICIES}, tmp_path / "waits.svg")
    assert "backfill" in (tmp_path / "waits.svg").read_text()
