"""A trained model, as a client's child process loads it from a request: its data, itself with its weights, its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dljobs.errors import DljobsError, UsageError

from . import published_weights
from .build import build_model
from .data import Data, load_data
from .data_record import DataRecord
from .losses import Loss, find_loss
from .weights import load_weights

REQUIRED = ("model", "data", "loss", "data_dir", "state_dict")


@dataclass(frozen=True)
class Trained:
    """What a state_dict belongs to."""

    data: Data
    model: nn.Module  # on the device
    loss: Loss
    device: str


def load_trained(request: Mapping[str, Any]) -> Trained:
    """Load data, as the weights know them, and model and weights.

    Args:
        request: {model, model_options, data, data_options, loss, data_dir, state_dict: path, device: "cpu" or "cuda"}

    Raises:
        DljobsError: the request, the data or the state_dict is not as it must be.
    """
    missing = [key for key in REQUIRED if not request.get(key)]
    if missing:
        raise UsageError(f"the request lacks {missing[0]!r}")
    device = request.get("device", "cpu")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"the device is 'cpu' or 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DljobsError("no CUDA device can be used here", hint="use the device 'cpu'")
    loss = find_loss(request["loss"])
    state_dict = Path(request["state_dict"])
    data = load_data(request["data"], request.get("data_options") or {}, Path(request["data_dir"]))
    data = DataRecord.of_weights(state_dict).apply(data)
    with published_weights.left_out():
        model = build_model(request["model"], request.get("model_options") or {}, data)
    load_weights(model, state_dict)
    return Trained(data, model.to(device), loss, device)
