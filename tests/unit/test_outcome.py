"""What the evidence of a run is taken to mean."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from dljobs.service.failures import FailureClass
from dljobs.workers.launcher import RankExit
from dljobs.workers.outcome import Evidence, classify


def exit_of(rank: int, code: int, *, was_killed: bool = False) -> RankExit:
    return RankExit(rank, 1000 + rank, code, 10.0 + rank, was_killed)


def error_of(rank: int, at: float, *, secondary: bool = False, failure_class: str = "user") -> dict[str, Any]:
    about = {"exception": "ValueError", "message": f"of {rank}", "file": "/x/net.py", "line": 7, "traceback": "…"}
    return {"type": "error", "rank": rank, "at": at, "secondary": secondary, "failure_class": failure_class, **about}


def test_finished_is_success_even_if_a_stop_was_asked_for() -> None:
    evidence = Evidence(exits=[exit_of(0, 0)], finished={"result": {"loss": 1.0}}, stop=FailureClass.CANCELLED)
    outcome = classify(evidence)
    assert outcome.failure is None
    assert outcome.result == {"loss": 1.0}


def test_weights_that_could_not_be_stored_are_no_success() -> None:
    outcome = classify(Evidence(finished={"result": {}}, storage="no room"))
    assert (outcome.failure, outcome.reason) == (FailureClass.STORAGE, "no room")


@pytest.mark.parametrize("stop", [FailureClass.CANCELLED, FailureClass.PREEMPTED, FailureClass.TIME_LIMIT])
def test_what_was_asked_for_is_the_reason(stop: FailureClass) -> None:
    stopped = Evidence(exits=[exit_of(0, 0)], stop=stop, stopped={"step": 12})
    assert classify(stopped).failure is stop
    assert "after step 12" in classify(stopped).reason
    assert "were killed" in classify(Evidence(exits=[exit_of(0, -9, was_killed=True)], stop=stop)).reason


def test_the_first_primary_error_is_the_cause() -> None:
    errors = [error_of(0, 1.0, secondary=True), error_of(2, 3.0), error_of(1, 2.0)]
    outcome = classify(Evidence(exits=[exit_of(0, 1), exit_of(1, 1), exit_of(2, 1)], errors=errors))
    assert outcome.failure is FailureClass.USER
    assert outcome.reason == "rank 1 raised ValueError: of 1 (net.py:7)"
    assert outcome.error is not None
    assert outcome.error["traceback"] == "…"


def test_a_killed_rank_is_the_cause_of_its_peers_errors() -> None:
    exits = [exit_of(0, 1), exit_of(1, -signal.SIGKILL), exit_of(2, -9, was_killed=True)]
    outcome = classify(Evidence(exits=exits, errors=[error_of(0, 1.0)]))
    assert (outcome.failure, outcome.reason) == (FailureClass.KILLED, "rank 1 was killed by SIGKILL")


def test_a_kill_for_want_of_memory_is_said_so() -> None:
    evidence = Evidence(exits=[exit_of(0, -signal.SIGKILL)], out_of_memory_kills=1)
    assert classify(evidence).failure is FailureClass.OOM


@pytest.mark.parametrize(("num_kills", "failure"), [(0, FailureClass.KILLED), (1, FailureClass.OOM)])
def test_so_is_that_of_a_ranks_child(num_kills: int, failure: FailureClass) -> None:
    errors = [error_of(0, 1.0, failure_class="killed")]
    outcome = classify(Evidence(exits=[exit_of(0, 1)], errors=errors, out_of_memory_kills=num_kills))
    assert outcome.failure is failure


def test_a_hang_tells_where_the_ranks_stood_and_keeps_its_evidence() -> None:
    places = {1: "hang (net.py:40)", 0: "all_reduce (strategies.py:80)"}
    ends = [exit_of(0, -9, was_killed=True), exit_of(1, -9, was_killed=True)]
    outcome = classify(Evidence(exits=ends, hung="no step for 9 s", stacks=places))
    words = "no step for 9 s; rank 0 in all_reduce (strategies.py:80), rank 1 in hang (net.py:40)"
    assert (outcome.failure, outcome.reason) == (FailureClass.HUNG, words)
    assert outcome.evidence == {
        "exits": [{"rank": 0, "how": "ended by dljobs"}, {"rank": 1, "how": "ended by dljobs"}],
        "hung": "no step for 9 s",
        "stacks": {"0": places[0], "1": places[1]},
    }


def test_a_rank_that_went_without_a_word_is_the_cause_of_echoes() -> None:
    exits = [exit_of(0, 1), exit_of(1, 3)]
    outcome = classify(Evidence(exits=exits, errors=[error_of(0, 1.0, secondary=True)]))
    assert outcome.reason == "rank 1 left with exit code 3 and no exception"


def test_a_launcher_that_failed_is_not_the_users_fault() -> None:
    outcome = classify(Evidence(exits=[exit_of(0, 255)], launch_error="the forkserver is gone"))
    assert outcome.failure is FailureClass.KILLED
    assert "the forkserver is gone" in outcome.reason


def test_an_unknown_class_is_the_users() -> None:
    errors = [error_of(0, 1.0, failure_class="nonsense")]
    assert classify(Evidence(errors=errors)).failure is FailureClass.USER
