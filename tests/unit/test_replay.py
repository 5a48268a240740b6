"""A replay ends with the weights that were stored, and tells when these are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dljobs.errors import UsageError
from dljobs.workers.artifacts import ArtifactWriter
from dljobs.workers.channel import EventWriter
from dljobs.workers.folder import RunFolder
from dljobs.workers.replay import Replay, compare, describe
from dljobs.workers.strategies import Strategy
from tests.small_jobs import events_of, in_place_of_the_zoo, small_request
from tests.unit.test_trainer import train

CHANGES: dict[str, Any] = {"optimizer": "adam", "lr": 0.01, "keep_every": 1}


def replay(folder: Path, start: Path, reference: Path, to_step: int, **changes: Any) -> dict[str, Any]:
    request = small_request(
        folder, "draws", kind="verify", resume=str(start), state_dict=str(reference), state_dict_step=to_step,
        **{**CHANGES, **changes},
    )  # fmt: skip
    channel = EventWriter(RunFolder(folder).events(0))
    with in_place_of_the_zoo("draws"):
        Replay(request, Strategy(0, 1, 0, torch.device("cpu")), channel).run()
    channel.close()
    (finished,) = events_of(RunFolder(folder), type_="finished")
    assert not events_of(RunFolder(folder), type_="artifact"), "a replay leaves nothing"
    result: dict[str, Any] = finished["result"]
    return result


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Checkpoints step-4, step-8 and step-12, and state_dicts epoch-1 to epoch-3, of a model that draws its depth."""
    monkeypatch.setattr(ArtifactWriter, "is_writing", lambda *_: False)  # a disk that keeps up
    return train(tmp_path / "run", "draws", **CHANGES)


@pytest.mark.parametrize(("reference", "to_step"), [("step-8", 8), ("epoch-2", 8), ("step-12", 12), ("epoch-3", 12)])
def test_it_arrives_at_the_same_weights(tmp_path: Path, trained: RunFolder, reference: str, to_step: int) -> None:
    files = trained.artifacts
    found = replay(tmp_path / "again", files / "step-4.safetensors", files / f"{reference}.safetensors", to_step)
    assert (found["is_exact"], found["from_step"], found["to_step"]) == (True, 4, to_step)
    assert (found["num_different"], found["largest_difference"], found["differences"]) == (0, 0.0, [])


def test_it_tells_when_something_is_different(tmp_path: Path, trained: RunFolder) -> None:
    files = trained.artifacts
    found = replay(tmp_path / "again", files / "step-4.safetensors", files / "step-8.safetensors", 8, lr=0.02)
    assert not found["is_exact"]
    assert found["num_different"] == found["num_tensors"] == 6
    assert found["largest_difference"] > 0
    assert found["differences"] == ["another spec"]


def test_it_refuses_to_go_back(tmp_path: Path, trained: RunFolder) -> None:
    files = trained.artifacts
    with pytest.raises(UsageError, match="of step 8, and the weights of step 4"):
        replay(tmp_path / "again", files / "step-8.safetensors", files / "epoch-1.safetensors", 4)


def test_equal_is_bit_by_bit() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert compare({"w": nan}, {"w": nan.clone()})["is_exact"]
    found = compare({"w": zero, "v": nan}, {"w": -zero, "v": nan})
    assert (found["is_exact"], found["num_different"], found["largest_difference"]) == (False, 1, 0.0)
    assert describe(found) == "1 of 2 tensors differ, by 0 at most"
    assert compare({"w": zero}, {"w": torch.zeros(2)})["largest_difference"] == float("inf")
    with pytest.raises(UsageError, match="another model"):
        compare({"w": zero}, {"v": zero})
