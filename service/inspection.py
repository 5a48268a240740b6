"""Inspection: what the stored weights of a job hold, tensor by tensor, without torch and without loading them whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljobs.errors import DljobsError, UsageError

from .artifacts import ArtifactStore
from .database import Database
from .tensor_summary import Summary
from .tensors import TensorFile, TensorInfo
from .views import Json
from .weights import find_state_dict

if TYPE_CHECKING:
    from numpy.typing import NDArray


def inspect_all(database: Database, job_id: int, which: str) -> Json:
    """Every tensor of the weights that `which` means (best, last or an epoch), as an Inspection.

    Raises:
        NotFound: there are no such weights.
        CorruptArtifact: the stored bytes are damaged.
    """
    artifact, file = open_weights(database, job_id, which)
    tensors = [tensor_view(file, info) for info in file.tensors.values()]
    aliases = {name: {"name": name, "alias_of": kept} for name, kept in file.aliases.items()}
    tensors += [{**tensor_view(file, file.find(name)), **alias} for name, alias in aliases.items()]
    count = sum(info.count for info in file.tensors.values())
    return {"job_id": job_id, "artifact": artifact, "num_values": count, "tensors": tensors, "values": None}


def inspect_one(database: Database, job_id: int, which: str, name: str) -> tuple[Json, NDArray[Any]]:
    """One tensor by its name, as an Inspection without its values, and the array.

    Raises:
        UnknownName: the weights hold no such tensor.
        NotFound, CorruptArtifact: as `inspect_all`.
    """
    artifact, file = open_weights(database, job_id, which)
    info = file.find(name)
    about = {**tensor_view(file, info), "name": name, "alias_of": file.aliases.get(name)}
    found = {"job_id": job_id, "artifact": artifact, "num_values": info.count, "tensors": [about], "values": None}
    return found, file.read(info)


def open_weights(database: Database, job_id: int, which: str) -> tuple[Json, TensorFile]:
    """The Artifact that `which` means, and its tensors, of which nothing but the header was read."""
    _spec, artifact = find_state_dict(database, job_id, which)
    return artifact, TensorFile(ArtifactStore(database).open(artifact["id"]))


def tensor_view(file: TensorFile, info: TensorInfo) -> Json:
    """A Tensor: what it is, and a summary of its numbers. Reads it, block by block."""
    summary = Summary.of(file.blocks(info))
    return {
        "name": info.name,
        "alias_of": None,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "count": info.count,
        "mean": summary.mean,
        "std": summary.std,
        "min": summary.lowest,
        "max": summary.highest,
        "zero_share": summary.zero_share,
        "nan_share": summary.nan_share,
    }


def save_array(array: NDArray[Any], target: Path) -> None:
    """Write an array as .npy; the file appears whole or not at all.

    Raises:
        UsageError: the name ends in something else.
        DljobsError: the file cannot be written.
    """
    if target.suffix != ".npy":
        raise UsageError(f"a tensor is saved as .npy, not as {target.name}", f"write {target.with_suffix('.npy')}")
    import numpy as np

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array(file, array)  # of numbers: nothing of it is ever pickled
        partial.replace(target)
    except OSError as error:
        raise DljobsError(f"cannot write {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
