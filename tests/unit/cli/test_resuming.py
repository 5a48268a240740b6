"""checkpoint, resume, submit --resume-from, the lineage in show, and retention in artifacts gc."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dljobs.service import jobs, overview, runs, verifications
from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.failures import FailureClass
from dljobs.service.runs import RunKey
from tests.service_world import World
from tests.waiting import wait_until


def save(world: World, key: RunKey, step: int, *, mid_epoch: bool = False, best: bool = False, epoch: int = 0) -> int:
    """Store a checkpoint of the run; an epoch has 10 steps."""
    path = Path(world.settings.home) / "upload"
    path.write_bytes(f"state {step}".encode())
    metrics = {} if mid_epoch else {"accuracy": 0.9}
    what = Description("checkpoint", f"step-{step}", step=step, epoch=epoch or step // 10, metrics=metrics, best=best)
    return ArtifactStore(world.database).put(key, what, path)


@pytest.fixture
def trained(world: World) -> World:
    """Job 1 has trained three epochs, of which the first was the best, and stopped once in mid-epoch."""
    world.worker()
    world.job(sets=["schedule=cosine"], training={"epochs": 3, "lr": 0.5}, tags=["trial"], priority=70)
    key = world.start()
    save(world, key, 10, best=True)
    save(world, key, 15, mid_epoch=True, epoch=2)
    save(world, key, 30)
    world.succeed(key, accuracy=0.7)
    return world


def test_resume_goes_on_in_a_new_job_with_what_was_changed(dljobs, trained):
    done = dljobs("resume", "@", "--epochs", 5, "--set", "momentum=0.5", "--json")
    request, job = done.json["request"], done.json["job"]
    assert done.code == 0
    assert (job["id"], job["state"], job["name"], job["tags"], job["priority"]) == (2, "queued", "lenet", ["trial"], 70)
    training = request["spec"]["training"]
    assert [training[name] for name in ("epochs", "lr", "schedule", "momentum")] == [5, 0.5, "cosine", 0.5]
    assert request["resume_from"] == "@"
    new, old = dljobs("show", 2, "--json").json, dljobs("show", 1, "--json").json
    begins = {"artifact_id": 3, "job_id": 1, "name": "step-30", "step": 30, "epoch": 3}
    assert (new["resumed_from"], new["resumed_by"]) == (begins, [])
    assert (old["resumed_from"], old["resumed_by"]) == (None, [2])
    assert "job 1 from step-30, epoch 3" in dljobs("show", 2).out
    assert "continued by  job 2" in dljobs("show", 1).out


@pytest.mark.parametrize(
    ("reference", "artifact_id"), [("1:best", 1), ("1:last", 3), ("1:step-15", 2), ("@:step-10", 1), ("1", 3)]
)
def test_which_checkpoint_is_meant(dljobs, trained, reference, artifact_id):
    assert dljobs("submit", "lenet", "--epochs", 9, "--resume-from", reference).code == 0
    assert dljobs("show", 2, "--json").json["resumed_from"]["artifact_id"] == artifact_id


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["resume", "9"], 102, ["there is no job 9"]),
        (["resume", "1:step-7"], 102, ["no checkpoint 'step-7'", "there are last, best, step-10, step-15, step-30"]),
        (["resume", "1"], 2, ["nothing is left to train", "is at step 30, epoch 3", "--epochs 4"]),
        (["resume", "1", "--epochs", "2"], 2, ["the job ends with epoch 2", "--epochs 4"]),
        (["resume", "1:step-15", "--epochs", "1"], 2, ["is at step 15, epoch 2", "--epochs 2"]),
        (["resume", "1:step-15", "--batch-size", "32"], 2, ["was cut in mid-epoch", "another batch_size"]),
        (["resume", "1:best", "--epochs", "9", "--gpus", "7", "--batch-size", "64"], 2, ["nearest batch size"]),
        (["resume", "1", "--set", "momentun=1"], 2, ["momentum"]),
        (["submit", "mlp", "--resume-from", "1:best"], 2, ["is of model 'lenet', not 'mlp'"]),
        (["submit", "lenet", "--resume-from", "1:best", "--set", "max_steps=10"], 2, ["--set max_steps=11"]),
    ],
)
def test_what_cannot_go_on_is_said_before_anything_is_written(dljobs, trained, arguments, code, words):
    done = dljobs(*arguments)
    assert done.code == code
    assert all(word in done.err for word in words), done.err
    assert dljobs("show", 2).code == 102


def test_an_epochs_end_can_go_on_in_other_batches(dljobs, trained):
    assert dljobs("resume", "1:best", "--batch-size", 32).code == 0


def test_the_same_submission_twice_is_one_job_although_its_beginning_is_gone(dljobs, trained):
    submit = ["submit", "lenet", "--epochs", 9, "--resume-from", "1:best", "--idempotency-key", "k", "--parsable"]
    assert dljobs(*submit).out == "2\n"
    dljobs("cancel", 2)
    with trained.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM artifacts WHERE id = 1")
    assert dljobs(*submit).out == "2\n"
    assert "from a checkpoint that is gone" in dljobs("show", 2).out


def test_an_evaluation_cannot_go_on(dljobs, world):
    world.worker()
    world.job()
    key = world.start()
    world.store(key, 1)
    world.succeed(key)
    assert dljobs("eval", 1, "--queue").code == 0
    done = dljobs("resume", 2)
    assert (done.code, "does not train" in done.err) == (1, True)


def test_checkpoint_waits_until_it_is_stored(dljobs, world, redis):
    world.worker("w1")
    world.job()
    key = world.start()
    save(world, key, 10)

    def answer() -> None:
        wait_until(lambda: asked_at(world, key), 10, "the request")
        save(world, key, 17, mid_epoch=True, epoch=2)
        with world.database.write() as connection:
            runs.answer_checkpoint_request(connection, key, asked_at(world, key))

    thread = threading.Thread(target=answer)
    thread.start()
    done = dljobs("checkpoint", 1, "--timeout", 20)
    thread.join()
    assert (done.code, done.out) == (0, "job 1 is saved after step 17, epoch 2 (8 B)\n")
    assert redis.rings == [("dljobs.attend", "dljobs.worker.w1")]


def asked_at(world: World, key: RunKey) -> float:
    with world.database.read() as connection:
        moment: float = runs.get_run(connection, key.run_id)["checkpoint_requested_at"]
    return moment


def test_checkpoint_says_why_there_is_none(dljobs, world, redis):
    world.worker()
    world.job()
    waiting = dljobs("checkpoint", 1)
    assert (waiting.code, "job 1 is queued: only a job that trains" in waiting.err) == (1, True)
    key = world.start()
    redis.answers = False
    going_on = dljobs("checkpoint", 1, "--timeout", 0.1)
    assert going_on.code == 101
    assert "Redis does not answer" in going_on.err
    assert "is asked for a checkpoint and goes on" in going_on.err

    def end() -> None:
        wait_until(lambda: asked_at(world, key), 10, "the request")
        world.end(key, FailureClass.USER, "it raised")

    with world.database.write() as connection:
        runs.answer_checkpoint_request(connection, key, asked_at(world, key))
    thread = threading.Thread(target=end)
    thread.start()
    done = dljobs("checkpoint", 1, "--timeout", 20)
    thread.join()
    assert (done.code, "run 1 of job 1 ended before it: it raised" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [
        (["1"], (15, 30)),  # the newest checkpoint with something after it
        (["1:step-10"], (10, 15)),
        (["1:best", "--steps", "99"], (10, 30)),
        (["1:step-10", "--steps", "7"], (10, 15)),
    ],
)
def test_a_replay_is_a_job_between_two_stored_states(dljobs, trained, arguments, ends):
    done = dljobs("verify", *arguments, "--timeout", 0.05)
    assert done.code == 101
    assert "job 2 submitted: verify of 1" in done.err
    shown = dljobs("show", 2, "--json").json
    assert (shown["kind"], shown["spec"]["num_devices"]) == ("verify", 1)
    assert (shown["resumed_from"]["step"], shown["origin"]["name"]) == (ends[0], f"step-{ends[1]}")
    assert dljobs("show", 1, "--json").json["resumed_by"] == [], "it continues nothing"
    assert dljobs("artifacts", "gc", "--json").json["num_artifacts"] == 0
    assert "(verification)" in dljobs("show", 2).out
    assert "nothing to go on with" in dljobs("resume", 2).err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["1:step-30"], 102, ["nothing was stored after checkpoint step-30", "keep_checkpoints_every=1"]),
        (["1:step-15", "--steps", "3"], 102, ["no weights were stored within 3 steps", "--steps 15 reaches"]),
        (["1:step-9"], 102, ["no checkpoint 'step-9'"]),
        (["2"], 102, ["there is no job 2"]),
    ],
)
def test_what_cannot_be_replayed_is_said(dljobs, trained, arguments, code, words):
    done = dljobs("verify", *arguments)
    assert (done.code, dljobs("show", 2).code) == (code, 102)
    assert all(word in done.err for word in words), done.err


def test_the_verdict_is_recorded_and_printed(dljobs, trained):
    def replay() -> None:
        wait_until(lambda: dljobs_jobs(trained) == 2, 20, "the job")
        verdict = {"is_exact": False, "num_tensors": 10, "num_different": 2, "largest_difference": 0.25}
        result = {**verdict, "from_step": 15, "to_step": 30, "differences": ["2 ranks then, 1 now"]}
        key = trained.start()
        trained.succeed(key, **result)
        with trained.database.write() as connection:
            verifications.add_of_job(connection, jobs.get_job(connection, 2), result)

    thread = threading.Thread(target=replay)
    thread.start()
    done = dljobs("verify", 1, "--timeout", 30)
    thread.join()
    words = "steps 15 to 30: not the same: 2 of 10 tensors differ, by 0.25 at most (2 ranks then, 1 now)"
    assert (done.code, done.out) == (1, words + "\n")
    assert f"{words}, by ada, job 2" in dljobs("show", 1).out
    assert dljobs("show", 1, "--json").json["verifications"][0]["run"] == 1


def dljobs_jobs(world: World) -> int:
    with world.database.read() as connection:
        return len(jobs.list_active(connection)) + len(overview.list_ended(connection, 10))


def test_show_tells_what_a_class_was_judged_by_and_what_was_decided(dljobs, world):
    world.worker()
    world.job(max_retries=3)
    evidence = {
        "exits": [{"rank": 0, "how": "SIGKILL"}, {"rank": 1, "how": "ended by dljobs"}],
        "stacks": {"1": "all_reduce (strategies.py:80)"},
        "errors": [{"rank": 1, "exception": "DistBackendError"}],
        "out_of_memory_kills": 2,
    }
    world.end(world.start(), FailureClass.OOM, "rank 0 was killed by the kernel", evidence=evidence)
    shown = dljobs("show", 1).out
    assert "rank 0: SIGKILL; rank 1: ended by dljobs; rank 1 stood in all_reduce (strategies.py:80)" in shown
    assert "rank 1 raised DistBackendError; 2 out-of-memory kills on the host" in shown
    assert "queued again, retry 1 of 3, after 2.0s" in shown
    [run] = dljobs("show", 1, "--json").json["runs"]
    assert (run["evidence"], run["decision"]) == (evidence, "queued again, retry 1 of 3, after 2.0s")


def test_gc_goes_by_retention_and_leaves_what_a_job_begins_with(dljobs, trained):
    key = trained_again(trained)
    for step in (40, 50, 60):
        save(trained, key, step)
    trained.succeed(key)
    dljobs("submit", "lenet", "--epochs", 9, "--resume-from", "2:step-40", "--hold")
    found = dljobs("artifacts", "gc", "--dry-run", "--json").json
    assert found["num_artifacts"] == 0
    dljobs("cancel", "@")
    done = dljobs("artifacts", "gc", "--dry-run")
    assert "1 artifact that need not be kept" in done.out
    assert len(dljobs("artifacts", 2, "--json").json) == 3
    assert dljobs("artifacts", "gc", "--json").json["num_artifacts"] == 1
    assert [each["name"] for each in dljobs("artifacts", 2, "--json").json] == ["step-50", "step-60"]
    assert len(dljobs("artifacts", 1, "--json").json) == 3


def trained_again(world: World) -> RunKey:
    world.job(training={"epochs": 9})
    return world.start()
