"""The table of transitions: complete, and with no way into a dead end or out of an end."""

from __future__ import annotations

from enum import StrEnum

import pytest

from dljobs.service.states import (
    ENDED_JOBS,
    JOB_TRANSITIONS,
    LIVE_RUNS,
    PLACED_JOBS,
    RUN_TRANSITIONS,
    WAITING_JOBS,
    JobState,
    RunState,
)

LEGAL_MOVES_OF_JOBS = {
    "queued": "held starting cancelled",
    "held": "queued cancelled",
    "starting": "running queued failed cancelled",
    "running": "succeeded queued failed cancelled",
    "succeeded": "",
    "failed": "queued",
    "cancelled": "queued",
}
LEGAL_MOVES_OF_RUNS = {
    "starting": "running failed requeued cancelled",
    "running": "succeeded failed requeued cancelled",
    "succeeded": "",
    "failed": "",
    "requeued": "",
    "cancelled": "",
}


def reachable(table: dict[StrEnum, frozenset[StrEnum]], start: StrEnum) -> set[StrEnum]:
    found, new = {start}, {start}
    while new:
        new = set().union(*(table[state] for state in new)) - found
        found |= new
    return found


def test_the_legal_moves_are_these_and_no_others() -> None:
    for table, legal in ((JOB_TRANSITIONS, LEGAL_MOVES_OF_JOBS), (RUN_TRANSITIONS, LEGAL_MOVES_OF_RUNS)):
        found = {str(state): {str(to) for to in after} for state, after in table.items()}
        assert found == {state: set(after.split()) for state, after in legal.items()}


def test_every_state_is_in_the_table() -> None:
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(RUN_TRANSITIONS) == set(RunState)


def test_the_classes_of_states_share_out_all_states() -> None:
    for states, classes in (
        (JobState, [WAITING_JOBS, PLACED_JOBS, ENDED_JOBS]),
        (RunState, [LIVE_RUNS, [state for state in RunState if not RUN_TRANSITIONS[state]]]),
    ):
        listed = [state for of_class in classes for state in of_class]
        assert len(listed) == len(set(listed)) == len(states)


@pytest.mark.parametrize("state", JobState)
def test_every_job_can_come_to_an_end_and_is_reachable(state: JobState) -> None:
    assert set(ENDED_JOBS) & reachable(JOB_TRANSITIONS, state)  # type: ignore[arg-type]
    assert state in reachable(JOB_TRANSITIONS, JobState.QUEUED)  # type: ignore[arg-type]


def test_no_state_follows_itself_and_success_is_final() -> None:
    for table in (JOB_TRANSITIONS, RUN_TRANSITIONS):
        assert all(state not in after for state, after in table.items())
    assert not JOB_TRANSITIONS[JobState.SUCCEEDED]
    assert all(not RUN_TRANSITIONS[state] for state in RunState if state not in LIVE_RUNS)


def test_only_a_running_job_succeeds() -> None:
    assert [state for state, after in JOB_TRANSITIONS.items() if JobState.SUCCEEDED in after] == [JobState.RUNNING]
    assert [state for state, after in RUN_TRANSITIONS.items() if RunState.SUCCEEDED in after] == [RunState.RUNNING]
