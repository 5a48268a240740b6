from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import nn

from dljobs.errors import DljobsError, StorageFull
from dljobs.models.weights import load_weights
from dljobs.workers import weights
from dljobs.workers.weights import copy_to_host, digest, write_state_dict


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 6, bias=False)  # a name that stripping of prefixes would break
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = self.module.weight
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("other_empty", torch.zeros(0))


def save(model: nn.Module, path: Path) -> None:
    write_state_dict(*copy_to_host(model.state_dict()), path)


def test_tied_tensors_are_stored_once_and_come_back(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "weights.safetensors"
    save(model, path)
    assert sorted(load_file(path)) == ["empty", "module.weight", "other_empty"]
    for load in (load_weights, load_model):
        other = Tied()
        load(other, path)
        assert digest(other.state_dict()) == digest(model.state_dict())
        assert other.decoder.weight is other.module.weight


def test_views_are_stored_without_the_rest_of_their_memory(tmp_path: Path) -> None:
    whole = torch.arange(1000.0).reshape(10, 100)
    tensors, aliases = copy_to_host({"a": whole[3], "b": whole.t(), "c": whole[3:5]})
    assert aliases == {}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert tensors["a"].untyped_storage().nbytes() == 400
    whole.zero_()
    assert tensors["a"].tolist() == list(range(300, 400))
    assert tensors["b"].shape == (100, 10)
    write_state_dict(tensors, aliases, tmp_path / "views")
    assert load_file(tmp_path / "views")["b"].equal(tensors["b"])


def test_after_the_last_step_only_views_are_copied(tmp_path: Path) -> None:
    whole, own = torch.arange(1000.0).reshape(10, 100), torch.ones(3)
    tensors, aliases = copy_to_host({"own": own, "a": whole[3], "b": whole[2:4]}, final=True)
    assert tensors["own"].data_ptr() == own.data_ptr()
    assert tensors["a"].untyped_storage().nbytes() == 400
    write_state_dict(tensors, aliases, tmp_path / "views")
    assert load_file(tmp_path / "views")["b"].equal(whole[2:4])


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    assert digest(base) == digest(dict(reversed(list(base.items()))))
    assert digest({**base, "a": torch.ones(3, 2).t()}) == digest(base)
    others = [{"b": base["b"]}, {**base, "a": torch.ones(3, 2)}, {**base, "a": torch.ones(2, 3).double()}]
    others.append({**base, "b": torch.ones((), dtype=torch.int64)})
    assert digest(base) not in {digest(other) for other in others}
    assert digest({"h": torch.ones(2, dtype=torch.bfloat16)})


def test_a_state_dict_with_something_else_than_tensors_is_refused() -> None:
    with pytest.raises(DljobsError, match="'extra'"):
        copy_to_host({"extra": {"a": 1}})  # type: ignore[dict-item]


def test_a_full_disk_is_known_by_safetensors_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(StorageFull):
        save(Tied(), tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_steps_go_on_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes it does not hold the interpreter: the thread of the steps is not kept waiting for the disk."""
    tensors = {"large": torch.zeros(25 * 2**20)}
    writing = threading.Event()
    save_file = weights.save_file

    def save(*args: Any, **options: Any) -> None:
        writing.set()
        try:
            save_file(*args, **options)
        finally:
            writing.clear()

    monkeypatch.setattr(weights, "save_file", save)
    thread = threading.Thread(target=weights.write_tensors, args=(tmp_path / "file", tensors, {}))
    thread.start()
    num_steps = 0
    assert writing.wait(30)
    while writing.is_set():
        time.sleep(0.0005)
        num_steps += 1
    thread.join()
    assert num_steps > 8  # of dozens; it is 3 where the interpreter is held
