"""`python -P -m dljobs.models.child` as a client starts it to evaluate: one JSON object, whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dljobs.errors import CorruptArtifact, DljobsError, NotFound
from dljobs.models.build import build_model
from dljobs.models.catalog import resolve
from dljobs.models.child import TASKS, main
from dljobs.models.data import load_data
from dljobs.models.evaluation import shard_indices, tally
from dljobs.models.losses import find_loss
from dljobs.models.weights import load_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def state_dict(folder: Path) -> dict[str, Tensor]:
    torch.manual_seed(1)
    tensors: dict[str, Tensor] = build_model("lenet", {}, load_data("digits", {}, folder)).state_dict()
    save_file(tensors, folder / "good.safetensors")
    return tensors


def write_request(folder: Path, **changes: str | None) -> Path:
    request = {
        "task": "evaluate",
        "model": "lenet",
        "model_options": {},
        "data": "digits",
        "data_options": {},
        "loss": "cross_entropy",
        "data_dir": str(folder),
        "state_dict": str(folder / "good.safetensors"),
        "device": "cpu",
    }
    path = folder / "request.json"
    path.write_text(json.dumps({key: value for key, value in {**request, **changes}.items() if value is not None}))
    return path


def ask(folder: Path, **changes: str | None) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-P", "-m", "dljobs.models.child", str(write_request(folder, **changes))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = ended.stdout.splitlines()
    assert len(lines) == 1, f"stdout: {ended.stdout!r}, stderr: {ended.stderr!r}"
    answer: dict[str, Any] = json.loads(lines[0])
    return ended.returncode, answer


def test_it_answers_what_evaluating_in_this_process_gives(folder: Path, state_dict: dict[str, Tensor]) -> None:
    code, answer = ask(folder)
    data = load_data("digits", {}, folder)
    torch.manual_seed(1)
    model = build_model("lenet", {}, data)
    expected = tally(model, data.test, shard_indices(len(data.test), 0, 1), find_loss("cross_entropy"), data)
    assert code == 0
    assert answer.pop("seconds") > 0
    assert answer.pop("confusion") == expected.confusion()
    assert answer.pop("loss") == pytest.approx(expected.result()["loss"], rel=1e-5)
    result = expected.result()
    del result["loss"]
    assert answer == result
    assert answer["num_samples"] == 359
    assert list(answer["per_class"]) == list("0123456789")


def test_what_a_dataset_prints_does_not_reach_the_answer(folder: Path, state_dict: dict[str, Tensor]) -> None:
    other = folder / "damaged"
    other.mkdir()
    (other / "digits-1.safetensors").write_text("damaged, which the loader prints")
    code, answer = ask(folder, data_dir=str(other))
    assert (code, answer["num_samples"]) == (0, 359)


def test_a_state_dict_with_a_prefix_names_the_first_keys(folder: Path, state_dict: dict[str, Tensor]) -> None:
    save_file({f"module.{name}": tensor for name, tensor in state_dict.items()}, folder / "prefixed.safetensors")
    code, answer = ask(folder, state_dict=str(folder / "prefixed.safetensors"))
    assert code == 1
    assert answer["error"]["type"] == "DljobsError"
    assert answer["error"]["message"] == (
        "the state_dict does not fit LeNet: it lacks 'conv1.weight' (and 9 more); "
        "it holds 'module.conv1.bias' (and 9 more), which the model does not have"
    )
    assert "model options" in answer["error"]["hint"]


@pytest.mark.parametrize(
    ("changes", "error_type", "message"),
    [
        ({"task": "evaluat"}, "UnknownName", "unknown task 'evaluat': did you mean 'evaluate'?"),
        ({"model": "lenett"}, "UnknownName", "unknown model 'lenett': did you mean 'lenet'?"),
        ({"state_dict": "/nowhere"}, "NotFound", "no state_dict at /nowhere"),
        ({"loss": None}, "UsageError", "the request lacks 'loss'"),
        ({"device": "tpu"}, "UsageError", "the device is 'cpu' or 'cuda', not 'tpu'"),
        (
            {"loss": "mse"},
            "UsageError",
            "the model's output has shape (256, 10) and the data's target (256,)",
        ),
    ],
)
def test_errors_have_type_and_message(
    folder: Path,
    state_dict: dict[str, Tensor],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    error_type: str,
    message: str,
) -> None:
    assert main([str(write_request(folder, **changes))]) == (102 if error_type == "NotFound" else 2)
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["message"]) == (error_type, message)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_a_function_that_says_what_it_does(task: str) -> None:
    function = resolve(TASKS[task])
    assert function.__name__ == task
    assert "Returns:" in function.__doc__


def test_requests_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.json").write_text("[]")
    for arguments, message in (
        ([str(tmp_path / "none.json")], "cannot read the request"),
        ([str(tmp_path / "list.json")], "the request must be a JSON object"),
        ([], "usage: python -P -m dljobs.models.child REQUEST.json"),
    ):
        assert main(arguments) == 2
        assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_loading_says_what_does_not_fit(folder: Path, state_dict: dict[str, Tensor]) -> None:
    def load(tensors: dict[str, Tensor]) -> None:
        save_file(tensors, folder / "other.safetensors")
        load_weights(build_model("lenet", {}, load_data("digits", {}, folder)), folder / "other.safetensors")

    load(state_dict)
    with pytest.raises(DljobsError, match=r"does not fit LeNet: it lacks 'fc3\.bias'$"):
        load({name: tensor for name, tensor in state_dict.items() if name != "fc3.bias"})
    with pytest.raises(DljobsError, match=r"it holds 'extra', which the model does not have$"):
        load({**state_dict, "extra": torch.ones(1)})
    with pytest.raises(DljobsError, match=r"its 'fc3\.bias' has shape \(3,\) and the model's \(10,\)$"):
        load({**state_dict, "fc3.bias": torch.ones(3)})


def test_a_file_that_is_cut_or_missing(folder: Path, state_dict: dict[str, Tensor]) -> None:
    model = nn.Linear(1, 1)
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-7])
    with pytest.raises(CorruptArtifact, match="cannot be read as a safetensors file"):
        load_weights(model, folder / "cut.safetensors")
    with pytest.raises(NotFound, match="no state_dict at"):
        load_weights(model, folder / "none.safetensors")


def test_tied_tensors_need_be_stored_only_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    save_file({"b.weight": torch.ones(3, 3)}, tmp_path / "tied.safetensors")
    model = Tied()
    load_weights(model, tmp_path / "tied.safetensors")
    assert model.a.weight is model.b.weight
    assert torch.equal(model.a.weight, torch.ones(3, 3))
