"""Preemption over time, to the end: who was preempted resumes and finishes, nobody hits back, nothing goes round."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.scheduling.planning import Plan, plan
from dljobs.service.scheduling.rows import Policy, RunningJob, Snapshot, WaitingJob

from .clusters import MANY, NOW, hold, job, started, without, worker

CHECKPOINT_S = 3.0
POLICY = Policy(preemptible_below=100, min_run_s=60.0, ageing_s=400.0)
arrivals = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(1, 4),
        st.sampled_from([0, 30, 50, 90, 100]),
        st.sampled_from([10.0, 100.0, 400.0]),
        st.sampled_from(["ada", "bob"]),
    ),
    min_size=1,
    max_size=10,
)


class World:
    """A cluster in which jobs arrive, run for as long as they last, and leave when they are told to."""

    def __init__(self, jobs: list[WaitingJob], durations: dict[int, float]) -> None:
        self.coming = sorted(jobs, key=lambda each: each.submitted_at)
        self.jobs = {each.id: each for each in jobs}
        self.left_s = dict(durations)
        self.leaves_at: dict[int, float] = {}
        self.finished: set[int] = set()
        self.hits: list[tuple[int, int, float]] = []  # victim, for whom, how long it had run
        self.snapshot = Snapshot(NOW, [], [worker(1, *[None] * 4), worker(2, *[None] * 2)])

    def run(self) -> None:
        """To the end."""
        while self.coming or self.snapshot.running or self.snapshot.waiting:
            moments = [each.submitted_at for each in self.coming[:1]]
            moments += [self._stops_at(each) for each in self.snapshot.running]
            assert moments, "somebody waits, and nothing will ever happen"
            self._go_to(min(moments))
            self._carry_out(plan(self.snapshot, POLICY))
            assert len(self.hits) <= 20 * len(self.jobs), "it goes round and round"

    def _stops_at(self, running: RunningJob) -> float:
        ends_at = running.started_at + self.left_s[running.id]
        return min(ends_at, self.leaves_at.get(running.id, ends_at))

    def _go_to(self, now: float) -> None:
        stopped = [each for each in self.snapshot.running if self._stops_at(each) <= now]
        back = []
        for each in stopped:
            self.left_s[each.id] -= now - each.started_at
            self.leaves_at.pop(each.id, None)
            if self.left_s[each.id] > 1e-6:
                back.append(self.jobs[each.id])
            else:
                self.finished.add(each.id)
        gone = {each.id for each in stopped}
        back += [each for each in self.coming if each.submitted_at <= now]
        self.coming = [each for each in self.coming if each.submitted_at > now]
        self.snapshot = replace(
            self.snapshot,
            now=now,
            waiting=[*self.snapshot.waiting, *back],
            workers=without(self.snapshot.workers, gone),
            running=[each for each in self.snapshot.running if each.id not in gone],
        )

    def _carry_out(self, decided: Plan) -> None:
        now, placed = self.snapshot.now, {each.job_id: each for each in decided.placed}
        running = {each.id: each for each in self.snapshot.running}
        for each in decided.preempted:
            self.hits.append((each.job_id, each.for_job_id, now - running[each.job_id].started_at))
            self.leaves_at[each.job_id] = now + CHECKPOINT_S
        hit = {victim for victim, _for_whom, _ran_s in self.hits}
        stay = [replace(each, is_leaving=each.id in self.leaves_at) for each in running.values()]
        new = [replace(started(self.jobs[one], placed[one], now), was_preempted=one in hit) for one in placed]
        kept = {one: each.device_ids for one, each in decided.kept.items()}
        self.snapshot = replace(
            self.snapshot,
            waiting=[
                replace(each, kept=kept.get(each.id, ())) for each in self.snapshot.waiting if each.id not in placed
            ],
            workers=hold(self.snapshot.workers, decided.placed),
            running=[*stay, *new],
        )


@MANY
@given(arrivals)
def test_whatever_is_preempted_ends_well(drawn: list[tuple[int, int, int, float, str]]) -> None:
    jobs = [
        job(number, size, submitted_at=NOW + after_s, priority=priority, user=user)
        for number, (after_s, size, priority, _duration_s, user) in enumerate(drawn, start=1)
    ]
    world = World(jobs, {number: each[3] for number, each in enumerate(drawn, start=1)})
    world.run()
    assert world.finished == set(world.jobs)
    assert {(victim, by) for victim, by, _ran_s in world.hits}.isdisjoint((by, v) for v, by, _ran_s in world.hits)
    seen = set()
    for victim, _by, ran_s in world.hits:
        assert victim not in seen or ran_s >= POLICY.min_run_s
        seen.add(victim)


def test_a_victim_resumes_behind_whoever_took_its_devices() -> None:
    low, high = job(1, 4, priority=10, submitted_at=NOW), job(2, 4, priority=90, submitted_at=NOW + 5)
    world = World([low, high], {1: 100.0, 2: 50.0})
    world.run()
    assert world.hits == [(1, 2, 5.0)]
    assert world.snapshot.now == NOW + 5 + CHECKPOINT_S + 50 + (100 - 5 - CHECKPOINT_S)
