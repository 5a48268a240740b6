"""`dljobs submit`: what it refuses, what it writes, what it prints."""

from __future__ import annotations

import pytest

from dljobs.service import jobs, overview
from dljobs.service.failures import FailureClass
from dljobs.service.waiting import Poll
from tests.service_world import World


def num_jobs(world: World) -> int:
    with world.database.read() as connection:
        return len(jobs.list_active(connection)) + len(overview.list_ended(connection, 1000))


def test_it_prints_the_id_and_rings(dljobs, world, redis):
    world.worker()
    done = dljobs("submit", "lenet", "--gpus", 4)
    assert (done.code, done.err) == (0, "")
    assert done.lines == ["job 1 submitted: lenet on digits, ddp on 4 devices"]
    assert redis.rings == [("dljobs.schedule", "dljobs.schedule")]
    assert dljobs("submit", "lenet", "--parsable").out == "2\n"


def test_every_option_reaches_the_job(dljobs, world):
    flags = "--gpus 2 --strategy dp --data mnist --epochs 3 --batch-size 32 --lr 0.5 --optimizer adam --seed 7"
    more = "--set momentum=0.8 --set num_classes=12 --name trial --tag a --tag b --priority 70 --time 1h30m"
    where = "--gpu-type h100 --gpu-mem 40G --on room=b12 --exclude gpu2 --after @:any --begin 2h"
    last = "--max-retries 5 --idempotency-key k --hold --preemptible --json"
    first = world.job()
    done = dljobs("submit", "lenet", *flags.split(), *more.split(), *where.split(), *last.split())
    assert done.code == 0
    request = done.json["request"]
    spec = request.pop("spec")
    assert request == {
        "name": "trial",
        "user": "ada",
        "priority": 70,
        "tags": ["a", "b"],
        "time_limit_s": 5400.0,
        "max_retries": 5,
        "idempotency_key": "k",
        "held": True,
        "is_preemptible": True,
        "num_nodes": 1,
        "may_spread": False,
        "size": "2",
        "selector": {
            "device_type": "h100",
            "memory_bytes": 40_000_000_000,
            "labels": {"room": "b12"},
            "exclude": ["gpu2"],
        },
        "resume_from": None,
        "after": ["@:any"],
        "begin_at": None,
        "begin_in_s": 7200.0,
    }
    assert (spec["strategy"], spec["num_devices"], spec["data"]) == ("dp", 2, "mnist")
    assert spec["model_options"] == {"num_classes": 12}
    wanted = {"epochs": 3, "batch_size": 32, "lr": 0.5, "optimizer": "adam", "seed": 7, "momentum": 0.8}
    assert wanted.items() <= spec["training"].items()
    job = done.json["job"]
    assert (job["state"], job["tags"], job["time_limit_s"]) == ("held", ["a", "b"], 5400.0)
    assert [reason["code"] for reason in job["reasons"]] == ["NoWorkers", "Held", "Dependency", "BeginTime"]
    assert f"job {first}" in job["reasons"][2]["text"]
    assert job["begin_at"] == pytest.approx(job["submitted_at"] + 7200, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenett"], ["unknown model 'lenett'", "did you mean 'lenet'?", "hint: `dljobs models` lists them"]),
        (["lenet", "--data", "digit"], ["unknown dataset 'digit'", "'digits'"]),
        (["lenet", "--set", "momentun=0.9"], ["unknown option 'momentun'", "'momentum'"]),
        (["lenet", "--set", "model.num_clases=3"], ["unknown model option 'num_clases'", "'num_classes'"]),
        (["lenet", "--set", "momentum"], ["--set wants key=value"]),
        (["lenet", "--gpu-mem", "lots"], ["no size", "40G"]),
        (["lenet", "--gpu-type", "-"], ["no kind of device", "a100"]),
        (["lenet", "--on", "room"], ["no label=value"]),
        (["lenet", "--exclude", "a b"], ["no name of a node"]),
        (["lenet", "--begin", "soon"], ["no moment", "18:30"]),
        (["lenet", "--after", "1:won"], ["no known condition", "1:ok"]),
        (["lenet", "--set", "epochs=2", "--epochs", "3"], ["epochs is given twice"]),
        (["lenet", "--set", "seed=1"], ["--set seed could mean data.seed or trainer.seed"]),
        (["lenet", "--epochs", "many"], ["'epochs' takes a whole number", "'many'"]),
        (["lenet", "--epochs", "0"], ["epochs must be between 1 and", "nearest: 1"]),
        (["lenet", "--lr", "nan"], ["'lr' takes a number"]),
        (["lenet", "--lr", "0"], ["nothing would be learned"]),
        (["lenet", "--optimizer", "adan"], ["did you mean 'adam'"]),
        (["lenet", "--until", "accuracy>0.9"], ["did you mean test.accuracy", "write loss<1e-3"]),
        (["lenet", "--until", "loss"], ["'loss' is no condition on a metric", "test.accuracy>0.98"]),
        (["lenet", "--init", "normal"], ["init normal takes a standard deviation", "normal:0.01"]),
        (["lenet", "--set", "init=xavier"], ["unknown init 'xavier'", "linear=xavier_uniform;conv=kaiming_normal"]),
        (["lenet", "--gpus", "0"], ["--gpus: '0' is no number of devices", "nearest: --gpus 1"]),
        (["lenet", "--gpus", "x"], ["--gpus: 'x' is no number of devices", "4, a range 2-8, or 0.25"]),
        (["lenet", "--gpus", "5000"], ["gpus must be between 1 and 4096"]),
        (["lenet", "--gpus", "8-2"], ["the range 8-2 ends below its beginning", "did you mean 2-8?"]),
        (["lenet", "--gpus", "2-100"], ["batch size 64 is global and has no sample for each of 100", "--gpus 2-64"]),
        (["lenet", "--gpus", "0.125"], ["--gpus: '0.125' is no number of devices"]),
        (["lenet", "--gpus", "0.5", "--strategy", "ddp"], ["0.5 of a device is for one process", "--gpus 1"]),
        (["lenet", "--gpus", "3"], ["batch size 64 is global", "63 or 66"]),
        (["lenet", "--gpus", "3", "--nodes", "2"], ["3 devices cannot be shared out equally to 2", "--gpus 2 or 4"]),
        (["lenet", "--gpus", "2", "--strategy", "single"], ["strategy single trains on one device"]),
        (["lenet", "--strategy", "dpp"], ["unknown strategy 'dpp'", "did you mean"]),
        (["lenet", "--time", "soon"], ["--time: 'soon' is no duration", "15m"]),
        (["lenet", "--priority", "101"], ["priority must be between 0 and 100"]),
        (["lenet", "--tag", "a\nb"], ["a tag is 1 to 200 printable characters"]),
        (["lenet", "--name", ""], ["a name is 1 to 200"]),
        (["lenet", "--gpu", "2"], ["No such option", "--gpus", "hint: `dljobs submit --help`"]),
        (["lenet", "resnet"], ["unexpected extra argument"]),
        ([], ["Missing argument 'MODEL'"]),
        (["lenet", "--json", "--follow"], ["--json cannot go with --follow"]),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_written(dljobs, world, redis, arguments, words):
    done = dljobs("submit", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("dljobs: ")
    for word in words:
        assert word in done.err
    assert num_jobs(world) == 0
    assert redis.rings == []


def test_a_dry_run_needs_nothing_and_writes_nothing(dljobs, settings, redis):
    settings.sqlite_path.unlink()
    done = dljobs("submit", "lenet", "--gpus", 2, "--dry-run")
    assert done.code == 0
    fields = dict(line.split(None, 1) for line in done.lines)
    assert fields["strategy"] == "ddp"
    assert fields["training.lr"] == "0.05"
    assert "nothing was written" in done.err
    as_json = dljobs("submit", "lenet", "--dry-run", "--json").json
    assert (as_json["dry_run"], as_json["created"], as_json["job"]) == (True, False, None)
    assert not settings.sqlite_path.exists()
    assert redis.rings == []


def test_what_stands_in_its_way_is_said_at_once(dljobs, world, redis):
    redis.answers = False
    done = dljobs("submit", "lenet", "--parsable")
    assert (done.code, done.out) == (0, "1\n")
    assert "warning: Redis does not answer: job 1 is safe in the database" in done.err
    assert "no worker takes work now" in done.err
    world.worker(num_devices=2)
    redis.answers = True
    warnings = dljobs("submit", "lenet", "--gpus", 4, "--json").json["warnings"]
    assert warnings == ["job 2 waits: it needs 4 devices on one worker; the most that one worker has is 2"]


def test_the_same_idempotency_key_makes_one_job(dljobs, world, redis):
    world.worker()
    assert dljobs("submit", "lenet", "--idempotency-key", "k", "--parsable").out == "1\n"
    again = dljobs("submit", "lenet", "--idempotency-key", "k", "--json")
    assert again.json["job"]["id"] == 1
    assert again.json["created"] is False
    assert "used before" in again.err
    assert num_jobs(world) == 1
    assert len(redis.rings) == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [(None, 0), (FailureClass.USER, 100), (FailureClass.HUNG, 104), (FailureClass.TIME_LIMIT, 105)],
)
@pytest.mark.parametrize("how", ["--wait", "--follow"])
def test_with_wait_the_exit_code_is_the_jobs(dljobs, world, failure, code, how):
    world.worker()
    world.finished_job(failure, idempotency_key="k")
    done = dljobs("submit", "lenet", "--idempotency-key", "k", how)
    assert done.code == code
    assert f"job 1 {'failed' if code else 'succeeded'}: " in done.err


def test_follow_prints_the_log_to_stdout_and_talks_on_stderr(dljobs, world):
    world.worker()
    world.job(idempotency_key="k")
    key = world.start()
    world.write_log(key, (0, "epoch 1"), (None, "all ranks started"))
    world.succeed(key, accuracy=0.975)
    done = dljobs("submit", "lenet", "--idempotency-key", "k", "-f")
    assert done.out == "epoch 1\n[worker] all ranks started\n"
    assert "job 1 was already submitted" in done.err
    assert "job 1 succeeded: accuracy 0.975" in done.err


def test_ctrl_c_stops_waiting_and_the_job_goes_on(dljobs, world, monkeypatch):
    def interrupt(_self: Poll, *, happened: bool) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Poll, "pause", interrupt)
    for how in ("--wait", "--follow"):
        done = dljobs("submit", "lenet", how)
        assert done.code == 101
        assert "stopped waiting: job" in done.err
        assert "hint: wait again with `dljobs wait" in done.err
    assert num_jobs(world) == 2
