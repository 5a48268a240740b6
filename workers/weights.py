"""Weights on their way into a file: what of a state_dict is written, and a digest of the values.

A safetensors file holds raw names (never `module.`), contiguous copies, and each shared tensor once; the names left out
stand in the metadata, as `safetensors.torch.save_model` does it. So does the order of the names, that of the layers,
which safetensors gives up for alignment. `dljobs.models.weights` is the strict way back into a model. It knows no
optimizer and no run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dljobs.errors import CorruptArtifact, DljobsError
from dljobs.models import data_record
from dljobs.models.data_record import DataRecord
from dljobs.service.tensors import ORDER_KEY

from .folder import save_whole

HostCopy = tuple[dict[str, Tensor], dict[str, str]]


def copy_to_host(state_dict: Mapping[str, Tensor], *, final: bool = False) -> HostCopy:
    """Copies that no later step changes, and the aliases: name left out -> name of the same tensor.

    A view is copied by itself: its storage could be many times larger.

    Args:
        final: no step follows, so that what is on the host needs no copy.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[object, ...], str] = {}
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            raise DljobsError(f"cannot save {name!r} of the state_dict: it is no tensor but {type(tensor).__name__}")
        kept = first_name.setdefault(_memory(tensor), name) if tensor.numel() else name
        if kept == name:
            is_view = tensor.untyped_storage().nbytes() > tensor.nbytes
            tensors[name] = tensor.detach().to("cpu", copy=is_view or not final).contiguous()
        else:
            aliases[name] = kept
    return tensors, aliases


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        StorageFull: no room; nothing was left behind.
    """
    save_whole(path, lambda temporary: save_file(dict(tensors), temporary, metadata=dict(metadata)), durable=False)


def write_state_dict(
    tensors: Mapping[str, Tensor], aliases: Mapping[str, str], path: Path, data: DataRecord | None = None
) -> None:
    """Write what `copy_to_host` returned, and the record of the data it was trained on. Raises StorageFull."""
    metadata = {**aliases, "format": "pt", ORDER_KEY: json.dumps(list(tensors))}
    write_tensors(path, tensors, metadata if data is None else {**metadata, data_record.KEY: data.to_json()})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file on the CPU, and its metadata.

    Raises:
        CorruptArtifact: it is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CorruptArtifact(f"{path.name} cannot be read as safetensors: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        CorruptArtifact: it is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CorruptArtifact(f"{path.name} cannot be read as safetensors: {error}") from error


def with_aliases(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Put the names back that `copy_to_host` left out."""
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items()}}


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values: equal for equal weights, whatever file they are in."""
    result = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        result.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def _memory(tensor: Tensor) -> tuple[object, ...]:
    # Equal only for tensors that are the same memory seen in the same way; overlapping views count as different.
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
