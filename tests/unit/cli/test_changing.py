"""cancel, retry, hold, release and wait."""

from __future__ import annotations

import pytest

from dljobs.service.failures import FailureClass
from tests.service_world import World


def test_cancel_what_waits_is_at_once(dljobs, world: World, redis):
    world.job()
    redis.answers = False
    done = dljobs("cancel", "@")
    assert (done.code, done.err) == (0, "job 1 cancelled\n")
    again = dljobs("cancel", "@")
    assert again.code == 1
    assert "job 1 has already ended: it is cancelled" in again.err


def test_cancel_what_runs_asks_its_worker(dljobs, world: World, redis):
    world.worker("w1")
    world.job()
    key = world.start()
    assert dljobs("cancel", 1).err == "job 1 is asked to end\n"
    assert redis.rings == [("dljobs.attend", "dljobs.worker.w1")]
    redis.answers = False
    assert "Redis does not answer" in dljobs("cancel", 1).err
    world.end(key, FailureClass.CANCELLED, "cancelled")
    assert dljobs("wait", 1).code == 103


def test_one_job_that_cannot_be_asked_keeps_no_other_from_it(dljobs, world: World):
    world.worker()
    world.finished_job()
    world.job()
    done = dljobs("cancel", 1, 2, "--json")
    assert done.code == 1
    assert "job 1 has already ended" in done.err
    assert [(job["id"], job["state"]) for job in done.json] == [(2, "cancelled")]


def test_cancel_and_wait(dljobs, world: World):
    world.job()
    done = dljobs("cancel", 1, "--wait")
    assert done.code == 0
    assert "job 1 cancelled" in done.err


def test_retry_goes_on_or_begins_anew(dljobs, world: World, redis):
    world.worker()
    world.finished_job(FailureClass.USER)
    assert dljobs("retry", 1).err == "job 1 is queued\n"
    assert redis.rings == [("dljobs.schedule", "dljobs.schedule")]
    assert "from its last checkpoint" in dljobs("events", 1, "-n", 1).out
    dljobs("cancel", 1)
    assert dljobs("retry", 1, "--fresh").code == 0
    assert "from the beginning" in dljobs("events", 1, "-n", 1).out
    again = dljobs("retry", 1)
    assert (again.code, "only a failed or cancelled job can be retried" in again.err) == (1, True)


def test_hold_and_release(dljobs, world: World, redis):
    world.job()
    assert dljobs("hold", 1).err == "job 1 is held\n"
    assert redis.rings == []
    assert dljobs("release", 1, "--json").json[0]["state"] == "queued"
    assert redis.rings == [("dljobs.schedule", "dljobs.schedule")]
    assert dljobs("release", 1).code == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (None, 0),
        (FailureClass.USER, 100),
        (FailureClass.DATA, 100),
        (FailureClass.OOM, 100),
        (FailureClass.KILLED, 104),
        (FailureClass.HUNG, 104),
        (FailureClass.TIME_LIMIT, 105),
    ],
)
def test_the_exit_code_of_wait(dljobs, world: World, failure, code):
    world.worker()
    world.finished_job(failure)
    done = dljobs("wait", "@")
    assert (done.code, done.out) == (code, "")
    assert done.err == (f"job 1 failed: {failure}: {failure}\n" if failure else "job 1 succeeded: accuracy 0.975\n")


def test_what_would_help_is_said_with_the_failure(dljobs, world: World):
    world.worker()
    world.job(max_retries=0)
    error = {"rank": 0, "exception": "DataError", "message": "no file x", "hint": "fetch x and put it there"}
    world.end(world.start(), FailureClass.DATA, "no file x", error=error)
    assert dljobs("wait", "@").err == "job 1 failed: data: no file x\nhint: fetch x and put it there\n"
    assert "  hint: fetch x and put it there" in dljobs("why", "@").lines


def test_wait_for_several_returns_the_first_that_did_not_succeed(dljobs, world: World):
    world.worker()
    world.finished_job()
    world.finished_job(FailureClass.TIME_LIMIT)
    world.finished_job(FailureClass.USER)
    done = dljobs("wait", 1, 2, 3, "--json")
    assert done.code == 105
    assert [job["exit_code"] for job in done.json] == [0, 105, 100]


def test_wait_gives_up_when_the_time_is_up(dljobs, world: World):
    world.job()
    done = dljobs("wait", 1, "--timeout", "0.05")
    assert (done.code, done.out) == (101, "")
    assert done.err.startswith("dljobs: stopped waiting: job 1 goes on\nhint: ")
