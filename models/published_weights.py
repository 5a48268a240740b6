"""Published weights: the one place that opens a file of torch's own format, and how it is made sure of.

It owns the folder where such files lie (torch's own), their digest, and the restricted reading: `weights_only=True`
builds tensors and containers and calls nothing. All that dljobs itself writes is safetensors. A test keeps this the
only caller of `torch.load`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from dljobs.errors import DataError

# torchvision's names end in the first characters of the file's SHA-256.
DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth$")
OLD_NAME = re.compile(r"\.(norm|conv)\.([12])\.")

_left_out: ContextVar[bool] = ContextVar("left_out", default=False)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Build models without their published weights: the trained ones that are loaded next replace them all."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def load_published(model: nn.Module, what: str, url: str) -> None:
    """Load the weights that are published at this address from the folder of such files.

    Args:
        what: whose they are, for messages.

    Raises:
        DataError: the file is not there, or not the published one; the hint says which to fetch and where to put it.
    """
    if _left_out.get():
        return
    path = folder() / url.rsplit("/", 1)[-1]
    hint = f"fetch {url} and put it there, on every machine that trains; or leave the option weights out"
    if not path.is_file():
        raise DataError(f"{what} needs the file {path}, which is not there", hint)
    match = DIGEST.search(path.name)
    digest = _sha256(path)
    if match is None or not digest.startswith(match[1]):
        raise DataError(f"{path} is not the published file: its SHA-256 begins with {digest[:12]}", hint)
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, and whatever else bytes that are no such file give
        raise DataError(f"{path} holds more than tensors, or is damaged: nothing of it was used", hint) from error
    try:
        model.load_state_dict(_with_names_of_today(state_dict, model), strict=True)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit {what}: {str(error).splitlines()[0]}") from error


def folder() -> Path:
    """Where torch, and so everybody's scripts, keep such files: `$TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _with_names_of_today(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """DenseNet's file is from a time when a module's name could have dots in it.

    In place, because the dictionary also carries the versions of the layers.
    """
    known = model.state_dict().keys()
    for name in [name for name in state_dict if name not in known]:
        today = OLD_NAME.sub(r".\1\2.", name)
        if today != name:
            state_dict[today] = state_dict.pop(name)
    return state_dict


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
