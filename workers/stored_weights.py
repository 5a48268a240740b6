"""Weights on their way out of the store: straight into tensors on a device, never whole in between.

It owns the copying, chunk by verified chunk. `weights.py` is the way in; a file on disk is read by
`dljobs.models.weights`. It knows neither models nor jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dljobs.errors import CorruptArtifact, DljobsError
from dljobs.service.tensors import TYPES, Source, TensorFile, TensorInfo


class Stream(Source, Protocol):
    """Bytes that can be read in part, and one after the other: `artifact_reader.ArtifactReader` is one."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]: ...


def load_state_dict(source: Stream, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a stored safetensors file, in the order of its layers, with shared tensors under all their names.

    Beyond the tensors themselves it takes a few chunks of at most 4 MiB in host memory. So does a model that is built
    without memory of its own: `with torch.device("meta"): model = …`, then `load_state_dict(…, assign=True)`.

    Raises:
        CorruptArtifact: it is no whole safetensors file, or some of it does not match its digest.
        DljobsError: a tensor is of a type that is not known here.
    """
    file = TensorFile(source)
    tensors = {info.name: _empty(info, torch.device(device)) for info in file.tensors.values()}
    _fill(sorted(file.tensors.values(), key=lambda info: (info.start, info.stop)), tensors, source)
    return {**tensors, **{alias: tensors[name] for alias, name in file.aliases.items()}}


def _empty(info: TensorInfo, device: torch.device) -> Tensor:
    if info.type not in TYPES:
        raise DljobsError(f"tensor {info.name!r} is of the type {info.dtype}, which is not known here")
    return torch.empty(info.shape, dtype=getattr(torch, info.dtype), device=device)


def _fill(infos: list[TensorInfo], tensors: Mapping[str, Tensor], source: Stream) -> None:
    """Copy the file's bytes into the tensors, which lie in it one after the other."""
    if any(info.stop != following.start for info, following in pairwise(infos)):
        raise CorruptArtifact("this is no safetensors file: its tensors overlap, or leave holes")
    if not infos:
        return
    waiting = iter(infos)
    info, position = next(waiting), infos[0].start
    for chunk in source.chunks(position, infos[-1].stop):
        rest = chunk
        while rest:
            part = rest[: info.stop - position]
            if part:
                _copy(part, tensors[info.name], position - info.start)
            rest, position = rest[len(part) :], position + len(part)
            if position == info.stop:
                info = next(waiting, info)


def _copy(part: memoryview, tensor: Tensor, start: int) -> None:
    target = tensor.view(-1).view(torch.uint8)[start : start + len(part)]
    # numpy, because torch does not look at bytes that are read-only.
    content = np.frombuffer(part, np.uint8)
    if target.is_cpu:
        target.numpy()[:] = content
    else:
        target.copy_(torch.from_numpy(content.copy()))
