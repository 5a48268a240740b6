"""Safetensors files as numpy arrays: every type, names with spaces, files that are none."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dljobs.errors import CorruptArtifact, DljobsError, UnknownName
from dljobs.service import tensors as tensors_module
from dljobs.service.tensors import FileSource, TensorFile
from dljobs.workers.weights import copy_to_host, write_state_dict

TYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def written(path: Path, tensors: dict[str, Tensor]) -> TensorFile:
    save_file(tensors, path)
    return TensorFile(FileSource(path))


@pytest.mark.parametrize("name", TYPES)
def test_each_type_comes_back(tmp_path: Path, name: str) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, -4 if "u" not in name else 4, 100]]).to(TYPES[name])
    file = written(tmp_path / "one", {"odd": torch.zeros(3, dtype=torch.uint8), "x": tensor})
    info = file.find("x")
    assert (info.dtype, info.shape, info.count) == (name, (2, 3), 6)
    assert np.array_equal(file.read(info), tensor.to(torch.float64).numpy())


def test_bfloat16_keeps_each_value(tmp_path: Path) -> None:
    values = torch.tensor([1e-30, -3.14, float("inf"), float("nan"), 0.0, 65504.0]).bfloat16()
    found = written(tmp_path / "b", {"b": values})
    assert np.array_equal(found.read(found.find("b")), values.float().numpy(), equal_nan=True)


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    file = written(tmp_path / "few", {"one": torch.tensor(7.0), "none": torch.zeros(0, 3)})
    assert (file.read(file.find("one")).shape, file.read(file.find("one")).item()) == ((), 7.0)
    assert file.read(file.find("none")).shape == (0, 3)
    assert list(file.blocks(file.find("none"))) == []


def test_blocks_are_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_module, "BLOCK", 16)
    tensor = torch.arange(100.0)
    file = written(tmp_path / "long", {"x": tensor})
    blocks = list(file.blocks(file.find("x")))
    assert [len(block) for block in blocks] == [16] * 6 + [4]
    assert np.array_equal(np.concatenate(blocks), tensor.numpy())


def test_the_order_of_the_layers_and_the_names_of_one_tensor(tmp_path: Path) -> None:
    shared = torch.ones(2)
    state_dict = {"z.weight": shared, "0.block 1.0.bias": torch.zeros(1), "a.weight": shared}
    write_state_dict(*copy_to_host(state_dict), tmp_path / "tied")
    file = TensorFile(FileSource(tmp_path / "tied"))
    assert list(file.tensors) == ["z.weight", "0.block 1.0.bias"]
    assert file.aliases == {"a.weight": "z.weight"}
    assert file.find("a.weight") is file.find("z.weight")
    with pytest.raises(UnknownName, match=r"did you mean '0\.block 1\.0\.bias'"):
        file.find("0.block 1.bias")


def test_a_type_of_tomorrow_is_listed_but_not_read(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "new").write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
    file = TensorFile(FileSource(tmp_path / "new"))
    assert file.find("x").dtype == "f4"
    with pytest.raises(DljobsError, match="which numpy does not know"):
        file.read(file.find("x"))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 3, "data_offsets": [0, 8]},
        ["F32"],
    ],
)
def test_a_header_that_lies(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "bad").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CorruptArtifact, match="this is no safetensors file"):
        TensorFile(FileSource(tmp_path / "bad"))


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, b"\xff" * 100, struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_such_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(CorruptArtifact, match="this is no safetensors file"):
        TensorFile(FileSource(tmp_path / "other"))
