"""Stored weights become tensors chunk by chunk, wherever the chunks end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dljobs.errors import CorruptArtifact, DljobsError
from dljobs.workers.stored_weights import load_state_dict
from dljobs.workers.weights import copy_to_host, write_state_dict


class Stored:
    """A file in chunks of so many bytes, as an ArtifactReader would give it."""

    def __init__(self, content: bytes, chunk_bytes: int = 7) -> None:
        self._content = content
        self._chunk_bytes = chunk_bytes
        self.size = len(content)

    def read(self, start: int, stop: int) -> bytes:
        return self._content[start:stop]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        stop = self.size if stop is None else stop
        while start < stop:
            end = min((start // self._chunk_bytes + 1) * self._chunk_bytes, stop)
            yield memoryview(self._content[start:end])
            start = end


def stored(state_dict: Mapping[str, torch.Tensor], folder: Path, chunk_bytes: int = 7) -> Stored:
    write_state_dict(*copy_to_host(state_dict), folder / "file")
    return Stored((folder / "file").read_bytes(), chunk_bytes)


STATE_DICT = {
    "z.weight": torch.randn(3, 5),
    "a.weight": torch.randn(4, 2, 1, 2).to(torch.bfloat16),
    "empty": torch.empty(0, 3),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "double": torch.randn(2, dtype=torch.float64),
    "small": torch.arange(5, dtype=torch.uint8),
}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 10_000])
def test_every_type_comes_back_in_the_order_of_the_layers(tmp_path: Path, chunk_bytes: int) -> None:
    found = load_state_dict(stored(STATE_DICT, tmp_path, chunk_bytes))
    assert list(found) == list(STATE_DICT)
    for name, tensor in STATE_DICT.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_shared_tensors_are_shared_again(tmp_path: Path) -> None:
    shared = torch.randn(3)
    found = load_state_dict(stored({"in": shared, "out": shared}, tmp_path))
    assert found["in"].data_ptr() == found["out"].data_ptr()


def test_a_model_without_memory_of_its_own_takes_them_as_they_are(tmp_path: Path) -> None:
    trained = torch.nn.Linear(4, 3)
    with torch.device("meta"):
        model = torch.nn.Linear(4, 3)
    model.load_state_dict(load_state_dict(stored(trained.state_dict(), tmp_path)), strict=True, assign=True)
    x = torch.randn(2, 4)
    assert torch.equal(model(x), trained(x))


def test_no_tensors_at_all(tmp_path: Path) -> None:
    assert load_state_dict(stored({}, tmp_path)) == {}


def file_with(**entries: tuple[str, list[int], list[int]]) -> Stored:
    header: dict[str, Any] = {
        name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in entries.items()
    }
    text = json.dumps(header).encode()
    return Stored(len(text).to_bytes(8, "little") + text + bytes(100))


@pytest.mark.parametrize("second", [[4, 8], [12, 16]])
def test_tensors_that_overlap_or_leave_holes_are_refused(second: list[int]) -> None:
    with pytest.raises(CorruptArtifact, match="overlap, or leave holes"):
        load_state_dict(file_with(a=("F32", [2], [0, 8]), b=("F32", [1], second)))


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(DljobsError, match="'a' is of the type f8_e4m3"):
        load_state_dict(file_with(a=("F8_E4M3", [2], [0, 2])))
