"""The policy of retries: a user's fault never loops, the infrastructure's is free, everything ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.errors import ExitCode
from dljobs.service.failures import (
    FIRST_BACKOFF_S,
    LONGEST_BACKOFF_S,
    MAX_LOST_RUNS,
    FailureClass,
    decide,
    exit_code,
)

USERS = {FailureClass.USER, FailureClass.DATA, FailureClass.TIME_LIMIT, FailureClass.CANCELLED, FailureClass.PRUNED}
LOST = {FailureClass.NODE_LOST, FailureClass.DEVICE, FailureClass.STORAGE}
COUNTED = set(FailureClass) - USERS - LOST - {FailureClass.PREEMPTED}

counts = st.integers(0, 10**6)


def test_the_classes_are_sorted() -> None:
    assert {FailureClass.OOM, FailureClass.KILLED, FailureClass.HUNG} == COUNTED


@given(failure=st.sampled_from(sorted(USERS)), num_retries=counts, max_retries=counts, num_lost=counts)
def test_a_users_fault_is_never_tried_again(
    failure: FailureClass, num_retries: int, max_retries: int, num_lost: int
) -> None:
    assert not decide(failure, num_retries=num_retries, max_retries=max_retries, num_lost=num_lost).requeue


@given(failure=st.sampled_from(sorted(COUNTED)), num_retries=counts, max_retries=counts, num_lost=counts)
def test_what_may_pass_is_tried_again_within_the_retries(
    failure: FailureClass, num_retries: int, max_retries: int, num_lost: int
) -> None:
    verdict = decide(failure, num_retries=num_retries, max_retries=max_retries, num_lost=num_lost)
    assert verdict.requeue == (num_retries < max_retries)
    if verdict.requeue:
        assert FIRST_BACKOFF_S <= verdict.delay_s <= LONGEST_BACKOFF_S
    else:
        assert verdict.because == (f"all {max_retries} retries are used up" if max_retries else "")


@given(num_retries=counts, max_retries=counts, num_lost=counts)
def test_a_preemption_is_always_free(num_retries: int, max_retries: int, num_lost: int) -> None:
    verdict = decide(FailureClass.PREEMPTED, num_retries=num_retries, max_retries=max_retries, num_lost=num_lost)
    assert verdict.requeue
    assert verdict.delay_s == 0


@given(failure=st.sampled_from(sorted(LOST)), num_retries=counts, max_retries=counts, num_lost=counts)
def test_a_fault_of_the_infrastructure_is_free_until_the_job_is_suspect(
    failure: FailureClass, num_retries: int, max_retries: int, num_lost: int
) -> None:
    verdict = decide(failure, num_retries=num_retries, max_retries=max_retries, num_lost=num_lost)
    assert verdict.requeue == (num_lost + 1 < MAX_LOST_RUNS)
    assert verdict.requeue or f"{num_lost + 1} runs in a row" in verdict.because
    is_at_once = failure is FailureClass.NODE_LOST and num_lost == 0
    assert (verdict.delay_s == 0) == (is_at_once or not verdict.requeue)


def test_the_wait_doubles_up_to_a_limit() -> None:
    waits = [
        decide(FailureClass.OOM, num_retries=number, max_retries=1001, num_lost=0).delay_s for number in range(1001)
    ]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_BACKOFF_S


@pytest.mark.parametrize("failure", [*FailureClass, None])
def test_exit_codes(failure: FailureClass | None) -> None:
    special = {
        FailureClass.TIME_LIMIT: ExitCode.TIME_LIMIT,
        FailureClass.CANCELLED: ExitCode.CANCELLED,
        FailureClass.PRUNED: ExitCode.CANCELLED,
        FailureClass.NODE_LOST: ExitCode.INFRASTRUCTURE_FAILED,
        FailureClass.HUNG: ExitCode.INFRASTRUCTURE_FAILED,
        FailureClass.STORAGE: ExitCode.INFRASTRUCTURE_FAILED,
        FailureClass.DEVICE: ExitCode.INFRASTRUCTURE_FAILED,
        FailureClass.KILLED: ExitCode.INFRASTRUCTURE_FAILED,
    }
    expected = special.get(failure, ExitCode.JOB_FAILED) if failure else ExitCode.JOB_FAILED
    assert exit_code(failure) == expected
