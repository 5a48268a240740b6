"""What the reading commands tell about jobs, workers and the zoo."""

from __future__ import annotations

import re

import pytest

from dljobs.service import blobs, runs
from dljobs.service.artifacts import ArtifactStore
from dljobs.service.failures import FailureClass
from tests.service_world import World

ERROR = {
    "rank": 2,
    "exception": "ValueError",
    "message": "no luck",
    "file": "/code/net.py",
    "line": 12,
    "traceback": "Traceback (most recent call last):\n  boom\nValueError: no luck\x1b[2J\n",
    "hint": None,
}


def cells(line: str) -> list[str]:
    """The cells of a table's line; empty ones are not seen."""
    return re.split(r" {2,}", line.strip())


def test_status_of_nothing(dljobs):
    done = dljobs("status")
    assert done.code == 0
    assert done.lines[0] == "no jobs yet"
    assert "nothing starts until a worker does" in done.lines[-1]


def test_status_shows_what_runs_then_what_waits_then_what_ended(dljobs, world: World):
    worker = world.worker("w1", 4)
    world.finished_job(name="first")
    world.finished_job(FailureClass.USER, name="second")
    world.job(name="running", num_devices=2)
    world.progress(world.start(), 30, 100, epoch=5, steps_per_s=2.0)
    world.job(name="waiting", num_devices=4)
    world.job(name="held", held=True)
    world.worker("w2", 2)
    world.silence(worker, 20)
    done = dljobs("status")
    found = dljobs("status", "--json").json
    assert [job["name"] for job in found["jobs"]] == ["running", "waiting", "held", "second", "first"]
    running, waiting, held, second, first = found["jobs"]
    assert running["progress"]["eta_s"] == 35.0
    assert running["progress"]["fraction"] == 0.3
    assert [reason["code"] for reason in waiting["reasons"]] == ["Resources"]
    assert [reason["code"] for reason in held["reasons"]] == ["Held"]
    assert (second["exit_code"], first["exit_code"]) == (100, 0)
    table = "\n".join(done.lines)
    assert "30% e5/15" in table
    assert "35s" in table
    assert "accuracy 0.975" in table
    assert "user: user" in table
    assert "it needs 4 devices; the best worker, w1, has 2 free" in table
    assert done.lines[-1] == "4 of 6 devices free · 2 workers"


@pytest.mark.usefixtures("stopped_clock")
def test_status_says_what_is_stale(dljobs, world: World):
    world.worker("here", 2)
    world.silence(world.worker("gone", 2), 300)
    done = dljobs("status")
    assert done.lines[-1] == "2 of 2 devices free · 1 worker · gone is silent for 5m00s"
    assert dljobs("status", "--json").json["workers"]["silent"][0]["name"] == "gone"


def test_status_limits_what_it_shows(dljobs, world: World):
    world.worker()
    for number in range(4):
        world.finished_job(name=f"done{number}")
    for number in range(4):
        world.job(name=f"wait{number}", held=True)
    found = dljobs("status", "-n", 2, "--json").json
    assert [job["name"] for job in found["jobs"]] == ["wait0", "wait1", "done3", "done2"]
    assert (found["num_waiting"], found["num_not_shown"]) == (4, 2)
    assert "… and 2 more that wait" in dljobs("status", "-n", 2).out
    assert len(dljobs("status", "-n", 2, "--all", "--json").json["jobs"]) == 8


def test_a_pipe_shortens_names_but_never_ids_states_and_reasons(dljobs, world: World, monkeypatch):
    world.job(name="a-name-that-is-long " * 8)
    done = dljobs("status")
    assert re.match(r" *1  a-name-that.{,40}…  ada +lenet +queued  +1 ", done.lines[1])
    assert done.lines[1].endswith("no worker takes work now; start one with `dljobs worker`")
    monkeypatch.setenv("COLUMNS", "300")
    assert "a-name-that-is-long " * 7 in dljobs("status").out


def test_show_has_the_error_with_its_traceback(dljobs, world: World):
    world.worker()
    world.job(num_devices=4, tags=("a",), max_retries=0)
    key = world.start()
    world.end(key, FailureClass.USER, "rank 2 raised ValueError: no luck", error=ERROR)
    done = dljobs("show", 1)
    assert done.code == 0
    for words in ("job 1 lenet: failed", "ddp on 4 devices", "run 1: failed", "w1 on node1", "w1-cpu-0 (CPU)", "a"):
        assert words in done.out
    for words in ("ValueError", "no luck", "/code/net.py:12", "Traceback (most recent call last):\n  boom\n"):
        assert words in done.out
    assert "\x1b" not in done.out
    job = dljobs("show", "@", "--json").json
    assert job["runs"][0]["error"] == ERROR
    assert [device["uuid"] for device in job["runs"][0]["devices"]] == [f"w1-cpu-{n}" for n in range(4)]
    assert job["spec"]["training"]["epochs"] == 15
    assert key.token not in dljobs("show", 1, "--json").out


def test_show_tells_where_an_evaluation_has_its_weights_from(dljobs, world: World):
    world.worker()
    world.job()
    key = world.start()
    world.store(key, 3, accuracy=0.9)
    world.succeed(key)
    assert dljobs("eval", 1, "--queue").out == "job 2 submitted: evaluation of job 1\n"
    job = dljobs("show", 2, "--json").json
    assert (job["kind"], job["name"]) == ("evaluate", "eval of 1")
    assert job["origin"] == {"artifact_id": 1, "job_id": 1, "run": 1, "name": "epoch-3", "epoch": 3}
    assert "epoch-3 of job 1, run 1, epoch 3" in dljobs("show", 2).out


@pytest.mark.usefixtures("stopped_clock")
def test_why_in_every_state(dljobs, world: World):
    world.job(num_devices=2)
    assert "no worker takes work now" in dljobs("why", 1).out
    worker = world.worker("w1", 2)
    assert "it can start now, on 2 devices of w1" in dljobs("why", 1).out
    (key,) = world.place()
    done = dljobs("why", 1)
    assert "is starting on w1-cpu-0, w1-cpu-1 of w1 (node node1)" in done.out
    assert "its worker has not taken it up yet" in done.out
    world.job(num_devices=2)
    assert "(held by job 1)" in dljobs("why", 2).out
    world.job(num_devices=4)
    why = dljobs("why", 3, "--json").json
    assert [reason["code"] for reason in why["reasons"]] == ["NeverFits"]
    world.silence(worker, 45)
    assert "its worker has been silent for 45s: after 1m00s the job goes back" in dljobs("why", 1).out
    dljobs("cancel", 1)
    assert "its end was asked for" in dljobs("why", 1).out
    world.end(key, FailureClass.CANCELLED, "cancelled: stopped after step 3")
    assert "cancelled: stopped after step 3" in dljobs("why", 1).out


def test_why_of_what_ended(dljobs, world: World):
    world.worker()
    world.finished_job()
    world.finished_job(FailureClass.OOM)
    assert "it succeeded 0." in dljobs("why", 1).out
    assert "(oom): oom" in dljobs("why", 2).out
    assert "`dljobs retry 2`" in dljobs("why", 2).out


def test_logs_of_all_runs_in_order(dljobs, world: World):
    world.worker()
    world.job(num_devices=2)
    first = world.start()
    world.write_log(first, (0, "one"), (1, "uno"))
    world.end(first, FailureClass.PREEMPTED, "drained")
    second = world.start()
    world.write_log(second, (0, "two"), (None, "it resumed"))
    assert dljobs("logs", 1).lines == ["[0] one", "[1] uno", "[0] two", "[worker] it resumed"]
    assert dljobs("logs", 1, "--rank", 0).lines == ["one", "two"]
    assert dljobs("logs", 1, "--run", 2).lines == ["[0] two", "[worker] it resumed"]
    assert dljobs("logs", 1, "-n", 1).lines == ["[worker] it resumed"]
    assert dljobs("logs", 1, "-n", 0).lines == []
    nothing = dljobs("logs", 1, "--rank", 1, "--run", 2)
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "rank 1 of job 1 wrote nothing in run 2\n")
    assert dljobs("logs", 1, "--rank", 1, "-n", 0).err == ""
    missing = dljobs("logs", 1, "--run", 3)
    assert missing.code == 102
    assert "job 1 has no run 3" in missing.err
    lines = dljobs("logs", 1, "--json").json
    assert [(line["run"], line["rank"], line["line"]) for line in lines][-1] == (2, None, "it resumed")
    world.succeed(second)
    followed = dljobs("logs", 1, "--follow", "-n", 3)
    assert followed.lines == ["[1] uno", "[0] two", "[worker] it resumed"]
    assert "-- run 2 of job 1 --" in followed.err


def test_logs_of_a_job_that_waits(dljobs, world: World):
    world.job()
    done = dljobs("logs", 1)
    assert (done.code, done.out) == (0, "")
    assert "`dljobs why 1` says why" in done.err


def test_events_tell_who_moved_what(dljobs, world: World):
    world.worker()
    world.job()
    world.succeed(world.start())
    done = dljobs("events", 1)
    assert done.lines[0].endswith("  submitted")
    assert "job running -> succeeded" in done.lines[-1]
    assert dljobs("events", 1, "-n", 1).lines == done.lines[-1:]
    everything = dljobs("events", "--json").json
    assert any(event["kind"] == "worker" and event["job_id"] is None for event in everything)


@pytest.mark.usefixtures("stopped_clock")
def test_workers_and_who_holds_their_devices(dljobs, world: World):
    assert "no workers" in dljobs("workers").out
    world.worker("w1", 2)
    world.silence(world.worker("w2", 1), 90)
    world.job()
    world.start()
    done = dljobs("workers")
    (_titles, first, second, third) = map(cells, done.lines)
    assert (first[:3], first[4:]) == (["w1", "node1", "online"], ["w1-cpu-0", "cpu", "1", "CPU"])
    assert second == ["w1-cpu-1", "cpu", "CPU"]
    assert third == ["w2", "node1", "silent", "1m30s ago", "w2-cpu-0", "cpu", "CPU"]


def test_artifacts(dljobs, world: World):
    world.worker()
    world.job()
    assert dljobs("artifacts", 1).lines == ["job 1 has stored nothing yet"]
    key = world.start()
    world.store(key, 1, content=b"x" * 2048, accuracy=0.5, loss=1.25)
    row = cells(dljobs("artifacts", 1).lines[1])
    assert row[:7] == ["1", "1", "state_dict", "epoch-1", "1", "10", "2.0 KiB"]
    assert row[-1] == "accuracy 0.5, loss 1.25"
    assert dljobs("artifacts", "list", 1).out == dljobs("artifacts", 1).out


def test_garbage_is_looked_at_and_collected(dljobs, world: World, monkeypatch: pytest.MonkeyPatch):
    world.worker()
    world.job()
    key = world.start()
    store = ArtifactStore(world.database)
    first, second = world.store(key, 1, content=b"x" * 2048), world.store(key, 2, content=b"x" * 2048 + b"y")
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "collect", lambda *_: [])  # it died before that
        store.drop(key, [second])
    holds = "the store holds 1 artifact of 2.0 KiB in {} with {}"
    would = ["would delete 1 blob with 2.0 KiB", holds.format("2 blobs", "4.0 KiB")]
    assert dljobs("artifacts", "gc", "--dry-run").lines == would
    assert dljobs("artifacts", "gc", "--dry-run").lines == would
    assert dljobs("artifacts", "gc").lines == ["deleted 1 blob with 2.0 KiB", holds.format("1 blob", "2.0 KiB")]
    assert dljobs("artifacts", "gc").lines[0] == "deleted 0 blobs with 0 B"
    assert b"".join(store.chunks(first)) == b"x" * 2048


def test_models_and_one_of_them(dljobs):
    listed = dljobs("models").out
    assert re.search(r"^lenet +61,706 +digits +>= 97%", listed, re.MULTILINE)
    assert re.search(r"^cifar10 +classification +3×32×32", listed, re.MULTILINE)
    one = dljobs("models", "lenet").out
    for words in ("source", "61,706", "accuracy, higher is better", "epochs=15", "in_channels", "dljobs submit lenet"):
        assert words in one
    assert "seed" in dljobs("models", "digits").out
    unknown = dljobs("models", "lenat")
    assert (unknown.code, "did you mean 'lenet'" in unknown.err) == (2, True)


def test_the_layers_of_a_model(dljobs, monkeypatch):
    done = dljobs("models", "lenet")
    assert "layers, from 1×32×32 to 10:" in done.lines
    rows = [cells(line) for line in done.lines[done.lines.index("layers, from 1×32×32 to 10:") + 1 :]]
    assert ["conv2", "Conv2d", "16×10×10", "2,416"] in rows
    assert rows[-1] == ["in all", "61,706"]
    found = dljobs("models", "lenet", "--json").json
    assert (found["layers"]["num_parameters"], found["spec"]["training"]["epochs"]) == (61_706, 15)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    without = dljobs("models", "lenet")
    assert (without.code, without.lines[-1]) == (0, "dljobs submit lenet")
    assert "its layers cannot be listed: torch is not installed here" in without.err
    assert dljobs("models", "lenet", "--json").json["layers"] is None


def test_config_says_where_each_value_came_from_and_masks_secrets(dljobs, settings, monkeypatch):
    settings.config.write_text("grace_s = 12\n")
    monkeypatch.delenv("DLJOBS_GRACE_S", raising=False)
    done = dljobs("--redis-url", "redis://:geheim@h:1/0", "config")
    rows = {row[0]: row[1:3] for row in map(cells, done.lines)}
    assert rows["grace_s"] == ["12 s", "file"]
    assert rows["priority_ceiling"][0] == "100"
    assert rows["redis_url"] == ["redis://:***@h:1/0", "flag"]
    assert rows["user"] == ["ada", "environment DLJOBS_USER"]
    assert "geheim" not in done.out
    assert "geheim" not in dljobs("--redis-url", "redis://:geheim@h:1/0", "config", "--json").out


@pytest.mark.parametrize("command", ["show", "why", "logs", "artifacts", "events", "wait", "cancel", "retry", "hold"])
@pytest.mark.parametrize(("given", "code"), [("99", 102), ("@5", 102), ("abc", 2), ("@x", 2), ("9" * 30, (2, 102))])
def test_an_id_that_is_none(dljobs, command, given, code):
    done = dljobs(command, given)
    assert done.code == code or done.code in (code if isinstance(code, tuple) else ())
    assert done.out == ""
    assert done.err.startswith("dljobs: ")
    assert "hint: " in done.err


def test_at_means_the_latest(dljobs, world: World):
    world.job(name="older")
    world.job(name="newer")
    assert dljobs("show", "@", "--json").json["name"] == "newer"
    assert dljobs("show", "@1", "--json").json["name"] == "older"


def test_what_is_done_before_the_first_step(dljobs, world):
    world.worker()
    world.job()
    key = world.start()
    with world.database.write() as connection:
        runs.fenced_update(connection, key, stage="downloading x.tar.gz: 35% of 120.0 MB")
    assert dljobs("status", "--json").json["jobs"][0]["progress"]["stage"] == "downloading x.tar.gz: 35% of 120.0 MB"
    assert "downloading x.tar.gz: 35%" in dljobs("status").out
    assert "downloading x.tar.gz: 35% of 120.0 MB" in dljobs("show", 1).out
    world.progress(key, 30, 100)
    assert "downloading" not in dljobs("status").out + dljobs("show", 1).out
