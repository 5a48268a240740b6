"""The trainer on one rank, in the test's own process; several ranks are in tests/integration/test_trainer.py."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dljobs.errors import DataError, StorageFull, UsageError
from dljobs.models.data import Origin
from dljobs.models.data_record import DataRecord
from dljobs.models.weights import load_weights
from dljobs.workers import agreement, artifacts, trainer, weights, workload
from dljobs.workers.channel import Control, EventWriter, write_control
from dljobs.workers.checkpoint import Checkpoint
from dljobs.workers.folder import RunFolder, RunRequest
from dljobs.workers.loss_record import NonFiniteLoss
from dljobs.workers.random_state import seed_all
from dljobs.workers.sharding import Batches
from dljobs.workers.strategies import SplitOverDevices, Strategy
from dljobs.workers.trainer import Trainer
from dljobs.workers.workload import evaluate_on_test, run_evaluation
from tests.small_jobs import (
    MODELS,
    NUM_TEST,
    NUM_TRAIN,
    Tiny,
    events_of,
    in_place_of_the_zoo,
    small_request,
    tiny_data,
    train_losses,
)

STEPS_PER_EPOCH = 4  # 50 samples in batches of 16; the last batch has 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder: Path, model: str = "tiny", **changes: Any) -> RunFolder:
    request = small_request(folder, model, **changes)
    with in_place_of_the_zoo(model):
        run_here(request)
    return RunFolder(folder)


def run_here(request: RunRequest, strategy: type[Strategy] = Strategy) -> None:
    channel = EventWriter(RunFolder(Path(request.folder)).events(0))
    joined = strategy(0, 1, 0, torch.device("cpu"))
    if request.spec.kind == "evaluate":
        run_evaluation(request, joined, channel)
    else:
        Trainer(request, joined, channel).run()
    channel.close()


def test_a_run_tells_its_story_in_order(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", epochs=2)
    events = events_of(folder)
    told = [e["type"] for e in events if e["type"] not in {"losses", "metrics", "progress"}]
    assert told == ["stage", "plan", "stage", "first_step", *["artifact", "artifact"] * 2, "finished"]
    plan = next(e for e in events if e["type"] == "plan")
    assert (plan["total_steps"], plan["steps_per_epoch"], plan["epochs"]) == (8, 4, 2)
    assert (plan["num_train"], plan["num_test"], plan["num_parameters"]) == (NUM_TRAIN, NUM_TEST, 276)
    result = events[-1]["result"]
    assert result["step"] == 8
    assert result["best"]["value"] == max(e["values"]["accuracy"] for e in events if e.get("split") == "test")
    assert set(result["per_class"]) == {"0", "1", "2", "3"}
    assert [e["step"] for e in events if e["type"] == "progress"][-1] == 8
    assert train_losses(folder)[-1] < train_losses(folder)[0]


def test_the_gradient_is_that_of_the_plain_loop(tmp_path: Path) -> None:
    """A run is what anyone would write by hand with the same batches, to the last bit but for the order of one sum."""
    folder = train(tmp_path / "run", epochs=2, weight_decay=0.01, schedule="cosine")
    seed_all(5)
    model, data = Tiny(), tiny_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    losses = []
    for epoch in (1, 2):
        for shard in Batches(NUM_TRAIN, 16, seed=5).epoch(epoch):
            x, y = data.train.batch(shard.indices)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    assert train_losses(folder) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [1, 5, 8, 16, 100])
@pytest.mark.parametrize(("model", "loss"), [("tiny", "cross_entropy"), ("tiny-sse", "sse")])
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, micro_batch_size: int, model: str, loss: str) -> None:
    """The same float32 numbers are added in another order: off by rounding, some 1e-7 a step."""
    changes: dict[str, Any] = {"loss": loss, "clip_norm": 0.5}
    if loss == "sse":
        changes |= {"metric": "loss", "goal": "min", "lr": 0.001}
    whole = train(tmp_path / "whole", model, **changes)
    pieces = train(tmp_path / "pieces", model, micro_batch_size=micro_batch_size, **changes)
    assert train_losses(pieces) == pytest.approx(train_losses(whole), rel=1e-5)


def test_a_batch_that_does_not_fit_is_taken_in_pieces(tmp_path: Path) -> None:
    """What was tried out in vain leaves no trace: dropout and buffers are as if the pieces had been asked for."""
    asked = train(tmp_path / "asked", "dropout", micro_batch_size=2)
    found = train(tmp_path / "found", "is-greedy")  # 16, 8, 4, and 2 fit
    assert train_losses(found) == train_losses(asked)
    last = [
        load_file(events_of(folder, type_="artifact")[-2]["path"])["num_forwards"].item() for folder in (asked, found)
    ]
    assert last == [3 * (8 + 8 + 8 + 1)] * 2


def test_a_sample_that_does_not_fit_is_out_of_memory(tmp_path: Path) -> None:
    def refuse(_model: Tiny, _x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with mock.patch.dict(MODELS, {"is-greedy": lambda: Tiny(hook=refuse)}), pytest.raises(torch.OutOfMemoryError):
        train(tmp_path / "run", "is-greedy")
    with mock.patch.dict(MODELS, {"tiny": lambda: Tiny(hook=refuse)}), pytest.raises(torch.OutOfMemoryError):
        train(tmp_path / "untried", "tiny")


def test_artifacts_are_loadable_and_best_is_marked(tmp_path: Path) -> None:
    folder = train(tmp_path / "run")
    told = events_of(folder, type_="artifact")
    states = [e for e in told if e["kind"] == "state_dict"]
    assert [e["name"] for e in states] == ["epoch-1", "epoch-2", "epoch-3"]
    checkpoints = [(e["name"], e["epoch"]) for e in told if e["kind"] == "checkpoint"]
    assert checkpoints[0] == ("step-4", 1)
    assert checkpoints[-1] == ("step-12", 3)
    assert set(checkpoints[1:-1]) <= {("step-8", 2)}, "one that would have to wait for the disk is passed over"
    best = 0.0
    for e in states:
        assert e["best"] == (e["metrics"]["accuracy"] >= best)
        best = max(best, e["metrics"]["accuracy"])
        load_weights(Tiny(), Path(e["path"]))
    assert sorted(path.name for path in folder.artifacts.iterdir()) == sorted(Path(e["path"]).name for e in told)


def test_keep_every_passes_over_epochs_but_not_over_the_best_and_the_last(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", epochs=7, keep_every=3, metric="loss", goal="max", lr=0.01)
    kept = [e["epoch"] for e in events_of(folder, type_="artifact") if e["kind"] == "state_dict"]
    assert kept == [1, 3, 6, 7]  # the loss falls, so the first epoch has the highest


@pytest.mark.parametrize(
    ("changes", "steps"), [({"log_every": 5}, [1, 5, 10, 12]), ({"max_steps": 6}, [1, 2, 3, 4, 5, 6])]
)
def test_recorded_steps(tmp_path: Path, changes: dict[str, Any], steps: list[int]) -> None:
    folder = train(tmp_path / "run", **changes)
    assert [step for e in events_of(folder, type_="losses") for step in e["steps"]] == steps
    assert events_of(folder, type_="finished")[0]["result"]["step"] == steps[-1]


def test_points_are_thinned_out_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dljobs.workers.loss_record._MAX_POINTS", 3)
    assert len(train_losses(train(tmp_path / "run"))) == 4


@pytest.mark.parametrize("clip_norm", [0.0, 1e-6])
def test_clipping(tmp_path: Path, clip_norm: float) -> None:
    losses = train_losses(train(tmp_path / "run", clip_norm=clip_norm, momentum=0.0))
    assert (losses[1] == pytest.approx(losses[0], rel=0.2)) is bool(clip_norm) or losses[1] < losses[0]


def test_a_loss_that_is_not_finite_names_the_first_such_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"loss is nan at step 6 \(epoch 2\)") as raised:
        train(tmp_path / "run", "gives-nan")
    assert "--lr" in raised.value.hint
    told = events_of(RunFolder(tmp_path / "run"))
    assert [e["name"] for e in told if e["type"] == "artifact"] == ["epoch-1", "step-4"]
    assert not [e for e in told if e["type"] in {"finished", "stopped"}]
    assert len(train_losses(RunFolder(tmp_path / "run"))) == 5, "what was seen before it is on record"


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'f1'.*accuracy, loss"):
        train(tmp_path / "run", metric="f1")


@pytest.mark.parametrize("reason", ["drain", "cancel"])
def test_a_stop_is_obeyed_between_steps(tmp_path: Path, reason: str) -> None:
    small_request(tmp_path / "run")
    write_control(RunFolder(tmp_path / "run").control_json, Control(stop=reason))
    folder = train(tmp_path / "run")
    *_, last = events_of(folder)
    assert (last["type"], last["step"], last["reason"]) == ("stopped", 1, reason)
    names = [e["name"] for e in events_of(folder, type_="artifact")]
    assert names == ([] if reason == "cancel" else ["step-1"])


def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, **changes: Any) -> str:
    """Run until a step, drain, and return the path of the checkpoint."""
    seen = {"steps": 0}
    record = agreement.Agreement.record

    def count(self: agreement.Agreement, *loss: Any) -> None:
        record(self, *loss)
        seen["steps"] += 1

    with monkeypatch.context() as patch:
        patch.setattr(agreement.Agreement, "record", count)
        patch.setattr(agreement.Agreement, "is_due", lambda self: seen["steps"] == at_step)
        asked = Control(stop="drain")
        patch.setattr(agreement, "read_control", lambda _: asked if seen["steps"] == at_step else Control())
        folder = train(tmp_path / f"cut-{at_step}", **changes)
    (last,) = [e for e in events_of(folder, type_="artifact") if e["name"] == f"step-{at_step}"]
    return str(last["path"])


@pytest.mark.parametrize("at_step", [1, 3, 4, 6, 12])
def test_a_run_cut_anywhere_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    changes: dict[str, Any] = {"model": "dropout", "optimizer": "adam", "schedule": "cosine", "lr": 0.01}
    whole = train(tmp_path / "whole", **changes)
    path = cut(tmp_path, monkeypatch, at_step, **changes)
    rest = train(tmp_path / "rest", resume=path, **changes)
    (expected,), (result,) = events_of(whole, type_="finished"), events_of(rest, type_="finished")
    for key in ("weights_sha256", "loss", "accuracy", "best", "step"):
        assert result["result"][key] == expected["result"][key], key
    assert train_losses(rest) == train_losses(whole)[at_step:]
    epoch_losses = [
        [e["values"]["epoch_loss"] for e in events_of(folder, type_="metrics") if "epoch_loss" in e["values"]]
        for folder in (whole, rest)
    ]
    assert epoch_losses[1] == epoch_losses[0][-len(epoch_losses[1]) :]


@pytest.mark.parametrize("model", ["dropout", "draws"])
def test_so_does_one_cut_at_random_between_accumulated_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Of a model that draws its depth in Python in each forward, and a batch takes three of them."""
    changes: dict[str, Any] = {"model": model, "optimizer": "adam", "lr": 0.01, "micro_batch_size": 6}
    whole = train(tmp_path / "whole", **changes)
    for at_step in random.SystemRandom().sample(range(1, 3 * STEPS_PER_EPOCH), 3):
        path = cut(tmp_path, monkeypatch, at_step, **changes)
        rest = train(tmp_path / f"rest-{at_step}", resume=path, **changes)
        assert result_of(rest)["weights_sha256"] == result_of(whole)["weights_sha256"], at_step
        assert train_losses(rest) == train_losses(whole)[at_step:], at_step


def result_of(folder: RunFolder) -> dict[str, Any]:
    (finished,) = events_of(folder, type_="finished")
    result: dict[str, Any] = finished["result"]
    return result


LONG: dict[str, Any] = {"epochs": 40, "momentum": 0.0, "lr": 0.05}


@pytest.mark.parametrize("until", ["loss<0.7", "train.loss <= 7e-1"])
def test_a_run_stops_once_the_mean_loss_of_20_batches_is_low_enough(
    tmp_path: Path, until: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train_losses(train(tmp_path / "whole", **LONG))
    means = [sum(whole[i : i + 20]) / 20 for i in range(0, len(whole), 20)]
    step = 20 * (1 + next(i for i, mean in enumerate(means) if mean < 0.7))
    folder = train(tmp_path / "until", until=until, **LONG)
    assert train_losses(folder) == whole[:step]
    result = result_of(folder)
    assert (result["step"], result["epochs"]) == (step, step // STEPS_PER_EPOCH)
    assert re.fullmatch(rf"stopped at step {step}: loss 0\.\d+ <=? 0\.7", result["until"])
    assert [e["total_steps"] for e in events_of(folder, type_="progress")][-1] == step
    assert result["until"] in capfd.readouterr().out
    assert events_of(folder, type_="artifact")[-1]["name"] == f"step-{step}"


def test_a_rule_may_stop_a_run_in_mid_epoch(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", until="loss<100", batch_size=7, epochs=4)  # 8 steps an epoch
    assert (result_of(folder)["step"], result_of(folder)["epochs"]) == (20, 3)
    assert [e["epoch"] for e in events_of(folder, type_="metrics") if e["split"] == "test"] == [1, 2, 3]


def test_a_run_stops_after_the_epoch_whose_test_result_is_good_enough(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", **LONG)
    found = [e["values"]["accuracy"] for e in events_of(whole, type_="metrics") if e["split"] == "test"]
    epoch = 1 + next(i for i, accuracy in enumerate(found) if accuracy > 0.6)
    result = result_of(train(tmp_path / "until", until="test.accuracy>0.6", **LONG))
    assert (result["epochs"], result["accuracy"]) == (epoch, found[epoch - 1])
    assert result["until"].startswith(f"stopped at step {epoch * STEPS_PER_EPOCH}: test accuracy 0.")


def test_so_stopped_it_leaves_the_checkpoint_of_its_last_epoch(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", until="test.accuracy>0.6", checkpoint_every_epochs=0, **LONG)
    step = result_of(folder)["step"]
    assert step < 160
    assert [e["name"] for e in events_of(folder, type_="artifact") if e["kind"] == "checkpoint"] == [f"step-{step}"]


def test_a_rule_that_was_never_met_says_so(tmp_path: Path) -> None:
    result = result_of(train(tmp_path / "run", until="loss<1e-9"))
    assert (result["step"], result["until"]) == (12, "not stopped: loss<1e-9 was not met in 12 steps")
    assert "until" not in result_of(train(tmp_path / "without"))


@pytest.mark.parametrize("at_step", [3, 17, 20])
def test_stop_rule_and_running_loss_are_exact_under_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], at_step: int
) -> None:
    changes: dict[str, Any] = {"until": "loss<0.9", "print_every": 3, "batch_size": 8, **LONG}
    whole = train(tmp_path / "whole", **changes)
    told = capfd.readouterr().out.splitlines()
    path = cut(tmp_path, monkeypatch, at_step, **changes)
    before = capfd.readouterr().out.splitlines()
    rest = train(tmp_path / "rest", resume=path, **changes)
    after = capfd.readouterr().out.splitlines()
    for key in ("until", "step", "weights_sha256", "loss"):
        assert result_of(rest)[key] == result_of(whole)[key]
    assert at_step <= result_of(whole)["step"]
    assert [line for line in before + after if line[0] == "["] == [line for line in told if line[0] == "["]
    assert told[-1] == after[-1] == result_of(whole)["until"]


def test_a_run_that_was_cut_after_its_stop_rule_was_met_only_finishes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", until="loss<100", batch_size=7, epochs=4)
    rest = train(
        tmp_path / "rest",
        resume=str(whole.artifacts / "step-20.safetensors"), until="loss<100", batch_size=7, epochs=4,
    )  # fmt: skip
    assert train_losses(rest) == []
    assert result_of(rest)["until"] == result_of(whole)["until"]


def test_the_log_has_a_line_for_each_epoch_and_running_losses_as_tutorials_have_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = train(tmp_path / "run", epochs=2, print_every=2)
    losses = train_losses(folder)
    tested = [e["values"]["accuracy"] for e in events_of(folder, type_="metrics") if e["split"] == "test"]
    (one, other) = [
        e["values"]["epoch_loss"] for e in events_of(folder, type_="metrics") if "epoch_loss" in e["values"]
    ]
    lines = [re.sub(r"\d+\.\d s$", "N s", line) for line in capfd.readouterr().out.splitlines()]
    assert lines == [
        f"[1,     2] loss: {sum(losses[0:2]) / 2:.4g}",
        f"[1,     4] loss: {sum(losses[2:4]) / 2:.4g}",
        f"epoch 1/2  loss {one:.4g}  test accuracy {tested[0]:.4g}  N s",
        f"[2,     2] loss: {sum(losses[4:6]) / 2:.4g}",
        f"[2,     4] loss: {sum(losses[6:8]) / 2:.4g}",
        f"epoch 2/2  loss {other:.4g}  test accuracy {tested[1]:.4g}  N s",
    ]


def test_a_run_resumed_behind_its_end_still_finishes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    rest = train(tmp_path / "rest", resume=str(whole.artifacts / "step-12.safetensors"))
    (expected,), (result,) = events_of(whole, type_="finished"), events_of(rest, type_="finished")
    assert result["result"]["weights_sha256"] == expected["result"]["weights_sha256"]
    assert [e["name"] for e in events_of(rest, type_="artifact")] == ["epoch-3"]


def test_a_mid_epoch_checkpoint_needs_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cut(tmp_path, monkeypatch, 3)
    with pytest.raises(UsageError, match="batch_size was 16 and is 8"):
        train(tmp_path / "rest", resume=path, batch_size=8)


def test_periodic_checkpoints_do_not_wait_for_the_epoch(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", checkpoint_every_s=0.0, epochs=1)
    assert "step-1" in [e["name"] for e in events_of(folder, type_="artifact")]
    assert Checkpoint.read(folder.artifacts / "step-1.safetensors").progress.step_in_epoch == 1


def test_a_full_disk_costs_checkpoints_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tensors = weights.write_tensors

    def fail(path: Path, *rest: Any) -> None:
        if path.name.startswith("step-"):
            raise StorageFull(f"no room left to write {path.name}")
        write_tensors(path, *rest)

    monkeypatch.setattr("dljobs.workers.checkpoint.write_tensors", fail)
    folder = train(tmp_path / "run", epochs=2)
    assert [e["name"] for e in events_of(folder, type_="artifact")] == ["epoch-1", "epoch-2"]
    assert events_of(folder)[-1]["type"] == "finished"
    assert "WARNING: checkpoint step-4 was dropped" in capfd.readouterr().out


def test_a_full_disk_at_the_end_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: Any) -> None:
        raise StorageFull(f"no room left to write {path.name}")

    monkeypatch.setattr(weights, "write_tensors", fail)
    with pytest.raises(StorageFull, match="epoch-2"):
        train(tmp_path / "run", epochs=2)
    assert not events_of(RunFolder(tmp_path / "run"), type_="finished")


def test_artifacts_are_announced_in_order_and_never_before_they_are_whole(tmp_path: Path) -> None:
    channel = EventWriter(tmp_path / "events.jsonl")
    writer = artifacts.ArtifactWriter(tmp_path, channel)
    for number in range(5):
        writer.write(lambda path: path.touch(), {"kind": "checkpoint", "name": f"step-{number}"})
    writer.flush()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [e["name"] for e in events] == [f"step-{number}" for number in range(5)]
    assert all(Path(e["path"]).exists() for e in events)


def test_dp_on_a_cpu_says_once_that_the_model_is_not_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with in_place_of_the_zoo("tiny"):
        run_here(small_request(tmp_path / "dp", strategy="dp", num_devices=2), SplitOverDevices)
    assert capfd.readouterr().out.count("unsplit") == 1
    assert train_losses(RunFolder(tmp_path / "dp")) == train_losses(train(tmp_path / "single"))


def test_an_evaluation_gives_what_the_training_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "ALIVE_EVERY_S", 0.0)
    trained = train(tmp_path / "run")
    (finished,) = events_of(trained, type_="finished")
    state_dict = str(trained.artifacts / "epoch-3.safetensors")
    folder = train(tmp_path / "eval", kind="evaluate", artifact_id=1, state_dict=state_dict)
    (result,) = events_of(folder, type_="finished")
    for key in ("loss", "accuracy", "per_class", "num_samples"):
        assert result["result"][key] == finished["result"][key]
    (artifact,) = events_of(folder, type_="artifact")
    written = json.loads(Path(artifact["path"]).read_text())
    assert (artifact["kind"], artifact["metrics"]["accuracy"]) == ("evaluation", written["accuracy"])
    assert sum(map(sum, written["confusion"])) == NUM_TEST
    assert events_of(folder, type_="alive"), "a long one is no hang"


def test_a_checkpoint_never_keeps_the_steps_waiting_and_there_are_never_two_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes one checkpoint until the last epoch's evaluation: all steps before are taken meanwhile."""
    at_end, writing, most = threading.Event(), [0], [0]
    write = Checkpoint.write

    def write_slowly(self: Checkpoint, path: Path) -> None:
        writing[0] += 1
        most[0] = max(most[0], writing[0])
        assert at_end.wait(30)
        write(self, path)
        writing[0] -= 1

    def evaluate(*arguments: Any) -> Any:
        evaluations.append(len(evaluations))
        if len(evaluations) == 3:
            at_end.set()
        return evaluate_on_test(*arguments)

    evaluations: list[int] = []
    monkeypatch.setattr(Checkpoint, "write", write_slowly)
    monkeypatch.setattr(trainer, "evaluate_on_test", evaluate)
    # Not the state_dicts', which are results: for them the run waits.
    folder = train(tmp_path / "run", checkpoint_every_steps=1, keep_every=3, metric="loss", goal="max", lr=0.01)
    names = [e["name"] for e in events_of(folder, type_="artifact") if e["kind"] == "checkpoint"]
    assert (names[0], names[-1], most) == ("step-1", "step-12", [1])
    assert "step-4" not in names


def test_checkpoints_by_step_and_by_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.ArtifactWriter, "is_writing", lambda *_: False)  # a disk that keeps up
    folder = train(tmp_path / "run", "is-slow", checkpoint_every_steps=3, checkpoint_every_epochs=2)
    checkpoints = [e for e in events_of(folder, type_="artifact") if e["kind"] == "checkpoint"]
    assert [e["step"] for e in checkpoints] == [3, 6, 8, 9, 12]
    best = [e["epoch"] for e in checkpoints if e["best"]]
    assert set(best) <= {2, 3}
    assert all(e["metrics"] == {} for e in checkpoints if e["step"] % STEPS_PER_EPOCH)
    only_the_last = train(tmp_path / "last", checkpoint_every_epochs=0)
    assert [e["name"] for e in events_of(only_the_last, type_="artifact") if e["kind"] == "checkpoint"] == ["step-12"]


def test_a_checkpoint_on_request_is_taken_once_and_the_run_goes_on(tmp_path: Path) -> None:
    small_request(tmp_path / "run")
    write_control(RunFolder(tmp_path / "run").control_json, Control(checkpoint=77.5))
    folder = train(tmp_path / "run", "is-slow", epochs=1)
    checkpoints = [e for e in events_of(folder, type_="artifact") if e["kind"] == "checkpoint"]
    assert [(e["step"], e["answers"]) for e in checkpoints] == [(1, 77.5), (4, 77.5)]
    assert events_of(folder, type_="finished")


@pytest.mark.parametrize("reason", ["drain", "cancel"])
def test_a_stop_is_obeyed_between_batches_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    changes: dict[str, Any] = {"model": "dropout", "optimizer": "adam", "lr": 0.01, "until": "test.accuracy>0.99"}
    whole = train(tmp_path / "whole", **changes)
    monkeypatch.setattr(workload, "_MIN_EVALUATION_BATCH", 1)  # so that it has as many samples as a training batch
    batches: list[int] = []

    def must_stop(self: agreement.Agreement) -> bool:
        batches.append(len(batches))
        if len(batches) == 3:  # the first of the two of the second epoch
            write_control(self._control_json, Control(stop=reason))
        return look(self)

    look = agreement.Agreement.must_stop
    with monkeypatch.context() as patch:
        patch.setattr(agreement.Agreement, "must_stop", must_stop)
        cut_short = train(tmp_path / "cut", **changes)
    assert len(batches) == 3
    assert [e["step"] for e in events_of(cut_short, type_="stopped")] == [8]
    names = [e["name"] for e in events_of(cut_short, type_="artifact") if e["kind"] == "checkpoint"]
    assert names == (["step-4"] if reason == "cancel" else ["step-4", "step-8"])
    rest = train(tmp_path / "rest", resume=str(cut_short.artifacts / f"{names[-1]}.safetensors"), **changes)
    for key in ("weights_sha256", "accuracy", "best", "step"):
        assert result_of(rest)[key] == result_of(whole)[key], key


def test_a_file_of_data_that_changes_under_a_run_is_no_way_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()

    def read_from(sha256: str) -> None:
        read = dataclasses.replace(data, origin=Origin("rows.csv", sha256))
        monkeypatch.setattr("tests.small_jobs.tiny_data", lambda **_: read)

    read_from("a" * 64)
    first = train(tmp_path / "first", epochs=1)
    path = str(first.artifacts / "step-4.safetensors")
    train(tmp_path / "same", resume=path, epochs=1)
    read_from("b" * 64)
    with pytest.raises(DataError, match=r"rows\.csv has changed since the training \(sha256 aaaaaaaaaaaa then, bbb"):
        train(tmp_path / "rest", resume=path, epochs=1)
    train(tmp_path / "other", resume=path, resumes_other_job=True, epochs=2)
    assert DataRecord.of_weights(first.artifacts / "epoch-1.safetensors").origin == Origin("rows.csv", "a" * 64)


def test_nodes_with_different_files_of_the_same_name_do_not_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dataclasses.replace(tiny_data(), origin=Origin("rows.csv", "a" * 64))
    monkeypatch.setattr("tests.small_jobs.tiny_data", lambda **_: read)
    folder = train(tmp_path / "one", epochs=1)
    assert result_of(folder)["data_sha256"] == "a" * 64
    monkeypatch.setattr(Strategy, "gather", lambda _self, text: [text, text, "b" * 64])
    with pytest.raises(DataError, match=r"rows\.csv is not the same on all nodes: .* aaaaaaaaaaaa for rank 0, bbb"):
        train(tmp_path / "two", epochs=1)


def test_other_settings_go_on_from_another_jobs_checkpoint(tmp_path: Path) -> None:
    first = train(tmp_path / "first", epochs=2, until="loss<1e-9")
    path = str(first.artifacts / "step-8.safetensors")
    more: dict[str, Any] = {"epochs": 4, "batch_size": 8, "optimizer": "adam", "lr": 0.01, "schedule": "cosine"}
    rest = train(tmp_path / "rest", resume=path, resumes_other_job=True, **more)
    (plan,) = events_of(rest, type_="plan")
    assert (plan["total_steps"], plan["steps_per_epoch"], plan["epochs"]) == (8 + 2 * 7, 7, 4)
    assert result_of(rest)["step"] == 22
    assert result_of(rest)["best"]["epoch"] in {3, 4}, "the best of this job, not of the other"
    # And such a run is itself exact under resume.
    cut_at = sorted(int(file.stem[5:]) for file in rest.artifacts.glob("step-*"))[0]
    own = str(rest.artifacts / f"step-{cut_at}.safetensors")
    again = train(tmp_path / "again", resume=own, **more)
    assert result_of(again)["weights_sha256"] == result_of(rest)["weights_sha256"]
    assert result_of(again)["step"] == 22
