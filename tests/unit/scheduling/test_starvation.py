"""Nothing starves: whatever others go on submitting, a job that can run starts once those ahead of it have run."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dljobs.service.scheduling.explaining import Explainer
from dljobs.service.scheduling.limits import Tally
from dljobs.service.scheduling.order import overtaking_bound_s
from dljobs.service.scheduling.planning import plan
from dljobs.service.scheduling.reasons import Reason, ReasonCode
from dljobs.service.scheduling.rows import Limit, OfferingWorker, Policy, RunningJob, Snapshot, WaitingJob

from .clusters import (
    FIRST_RUNNING_ID,
    MANY,
    NOW,
    TAGS,
    USERS,
    carried_out,
    clusters,
    job,
    runs,
    spanning_jobs,
    waiting_jobs,
    without,
    worker,
)

TURN_S = 50.0  # somebody submits so often
LONGEST_S = 100.0
READY = {"held": False, "begin_at": None, "eligible_at": None, "after": (), "set_id": None}
caps = st.builds(Limit, running_devices=st.sampled_from([None, 2, 6]), running_jobs=st.sampled_from([None, 1, 3]))
policies = st.builds(
    Policy,
    ageing_s=st.sampled_from([50.0, 100.0]),
    fair_share=st.booleans(),
    backfill=st.booleans(),
    preemptible_below=st.sampled_from([0, 101]),
    user_limits=st.dictionaries(st.sampled_from([*USERS, "*"]), caps, max_size=1),
    tag_limits=st.dictionaries(st.sampled_from([*TAGS, "*"]), caps, max_size=1),
)
jobs = st.one_of(waiting_jobs(), waiting_jobs(), spanning_jobs).map(lambda each: replace(each, **READY))  # type: ignore[arg-type]


class _Siege:
    """A cluster over time, to which jobs of the highest priority are submitted at every turn."""

    def __init__(self, old: WaitingJob, workers: list[OfferingWorker], running: list[RunningJob]) -> None:
        self.old = replace(old, id=FIRST_RUNNING_ID - 1, submitted_at=NOW)
        self.snapshot = Snapshot(NOW, [self.old], workers, running)
        self.ends = {each.id: NOW + LONGEST_S for each in running}  # whatever is expected
        self._new_ids = count(1)

    def turn(self, submitted: list[WaitingJob], policy: Policy) -> bool:
        """Let time pass until the next one; whether the job has started."""
        now, before = self.snapshot.now, self.snapshot
        new = [replace(each, id=next(self._new_ids), priority=100, submitted_at=now) for each in submitted]
        before = replace(before, waiting=[*before.waiting, *new])
        decided = plan(before, policy)
        after = carried_out(before, decided)
        placed = {each.job_id for each in decided.placed}
        # By turns as long as said, or the half: so they don't end all at once.
        lasts = (TURN_S, LONGEST_S)
        self.ends |= {
            each.id: now + (each.duration_s or lasts[each.id % 2]) for each in before.waiting if each.id in placed
        }
        over = {job_id for job_id, end_at in self.ends.items() if end_at <= now + TURN_S}
        over |= {each.id for each in after.running if each.is_leaving}
        running = [each for each in after.running if each.id not in over]
        self.snapshot = replace(after, now=now + TURN_S, workers=without(after.workers, over), running=running)
        return self.old.id in placed


@settings(MANY, max_examples=MANY.max_examples // 10)  # each is hundreds of plans
@given(jobs, clusters(), policies, st.lists(jobs, min_size=1, max_size=4), st.booleans())
def test_a_job_starts_once_those_that_may_be_ahead_have_run(
    old: WaitingJob,
    cluster: tuple[list[OfferingWorker], list[RunningJob]],
    policy: Policy,
    rivals: list[WaitingJob],
    are_told: bool,  # how long jobs will run
) -> None:
    workers, running = cluster
    siege = _Siege(old, workers, running)
    empty = replace(siege.snapshot, workers=without(workers, {each.id for each in running}), running=[])
    assume([placed.job_id for placed in plan(empty, policy).placed])
    assume(Tally(policy, []).allows(siege.old))
    rivals = [
        replace(each, duration_s=(TURN_S, LONGEST_S)[n % 2] if are_told else None) for n, each in enumerate(rivals)
    ]
    num_turns = int(overtaking_bound_s(old.priority, policy) / TURN_S) + 1
    # After so many turns nobody new comes ahead; those who did may have to run one after the other.
    num_turns += int(LONGEST_S / TURN_S) * (len(rivals) * num_turns + len(running) + 1)
    for _ in range(num_turns):
        if siege.turn(rivals, policy):
            return
    raise AssertionError(f"it still waits after {num_turns} turns")


def test_a_large_job_is_not_kept_out_by_small_ones_of_the_same_limit() -> None:
    """Two users have jobs of one tag: what it may have would go to the small ones, one after the other."""
    policy = Policy(ageing_s=100.0, tag_limits={"lab": Limit(running_devices=2)})
    large = job(1, 2, user="ada", tags=("lab",), priority=50)
    siege = _Siege(large, [worker(1, *[None] * 4)], [])
    small = [job(1, user="bob", tags=("lab",), duration_s=LONGEST_S)]
    siege.turn(small, policy)
    assert any(siege.turn(small, policy) for _ in range(14)), "the bound of its priority is 6 ageings of 2 turns each"


def test_a_job_that_is_above_its_limit_keeps_nothing_from_others() -> None:
    policy = Policy(user_limits={"*": Limit(running_devices=2)})
    queue = [job(1, 3, submitted_at=0.0), job(2, submitted_at=NOW)]
    assert [placed.job_id for placed in plan(Snapshot(NOW, queue, [worker(1, *[None] * 4)]), policy).placed] == [2]


def test_who_is_behind_an_old_job_in_a_limit_is_told_so() -> None:
    policy = Policy(tag_limits={"lab": Limit(running_devices=3)}, fair_share=False)
    queue = [job(1, 2, tags=("lab",), submitted_at=NOW - 86400), job(2, tags=("lab",), submitted_at=NOW), job(3)]
    running = [replace(runs(9, 2), tags=("lab",))]
    snapshot = Snapshot(NOW, queue, [worker(1, 9, 9, None, None)], running)
    result = plan(snapshot, policy)
    assert [placed.job_id for placed in result.placed] == [3]
    [reason] = Explainer(result).reasons(2)
    assert reason == Reason(ReasonCode.LIMIT, "what is left to tag lab is kept for job 1, which has waited for 1d00h")
    younger = [replace(queue[0], submitted_at=NOW - 86399), *queue[1:]]
    assert {placed.job_id for placed in plan(replace(snapshot, waiting=younger), policy).placed} == {2, 3}
