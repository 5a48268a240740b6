"""Reading a state_dict from a safetensors file into a model: all of it, or a sentence that says what does not fit.

It owns the strict load. It does not know where the file came from, nor checkpoints (optimizer, RNG, position).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dljobs.errors import CorruptArtifact, DljobsError, NotFound

HINT = "load it with the model and the model options that it was trained with"


def load_weights(model: nn.Module, path: Path) -> None:
    """Load every tensor of the file into the model, strictly.

    Of tied tensors the file need hold only one, which is how safetensors stores them: the other names are known from
    its metadata (name -> name of the same tensor), or because the model itself ties them.

    Raises:
        NotFound: there is no such file.
        CorruptArtifact: it is not a whole safetensors file.
        DljobsError: its names or shapes are not the model's; the message holds the first of each.
    """
    with _opened(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    expected: dict[str, Tensor] = model.state_dict()
    for name in [name for name in expected if name not in tensors]:
        twin = metadata.get(name) or _tied_to(name, expected, tensors)
        if twin in tensors:
            tensors[name] = tensors[twin]
    _check_fit(type(model).__name__, expected, tensors)
    model.load_state_dict(tensors, strict=True)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of the file; errors as those of `load_weights`."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise NotFound(f"no state_dict at {path}") from error
    except (SafetensorError, OSError) as error:
        raise CorruptArtifact(f"{path} cannot be read as a safetensors file: {error}") from error


def _tied_to(name: str, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> str | None:
    """Another name of the same memory in the model that the file does hold."""
    own = expected[name]
    for other, tensor in expected.items():
        same = tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape and tensor.stride() == own.stride()
        if same and own.numel() and other in tensors:
            return other
    return None


def _check_fit(model: str, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    wrong = []
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    if missing:
        wrong.append(f"it lacks {missing[0]!r}{_more(missing)}")
    if unexpected:
        wrong.append(f"it holds {unexpected[0]!r}{_more(unexpected)}, which the model does not have")
    if shapes:
        first = shapes[0]
        given, wanted = tuple(tensors[first].shape), tuple(expected[first].shape)
        wrong.append(f"its {first!r} has shape {given} and the model's {wanted}{_more(shapes)}")
    if wrong:
        raise DljobsError(f"the state_dict does not fit {model}: {'; '.join(wrong)}", hint=HINT)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
