"""The numbers that a run computes with: float32, TF32, or half of its bits where that does no harm (autocast).

Weights, gradients and the optimizer's state are float32 in all of them. float16 has so few exponents that small
gradients would vanish: they are scaled up by a factor that adapts (torch.amp.GradScaler, after Micikevicius et al.,
Mixed Precision Training, ICLR 2018), whose state belongs into checkpoints. It knows neither data nor ranks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dljobs.service import spec

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How forward passes, gradients and steps are computed on one device."""

    def __init__(self, name: spec.Precision, device: torch.device) -> None:
        self.name = name
        self._device = device
        self._half = _HALVES.get(name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        if name == "tf32" and device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # convolutions take TF32 without being asked

    def describe(self) -> str:
        """What a user may not expect of it on this device, or nothing."""
        if self.name == "tf32" and self._device.type != "cuda":
            return "tf32 is for GPUs: on this device it is float32"
        if self.name == "bf16" and self._device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            return "this GPU has no bf16 of its own: torch emulates it, slowly; --precision fp16 is faster here"
        return ""

    def autocast(self) -> AbstractContextManager[Any]:
        """A block whose matrix products and convolutions are computed in the chosen type, and losses in float32."""
        return torch.autocast(self._device.type, self._half) if self._half is not None else nullcontext()

    def scaled(self, weights: Tensor) -> Tensor:
        """What a backward pass begins with, so that no gradient vanishes."""
        scaled: Tensor = self._scaler.scale(weights)
        return scaled

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_norm: float) -> None:
        """Take the gradients' scale off, clip them if `clip_norm` is not 0, and step.

        Without a step where one is not finite, which a smaller scale will mend.
        """
        if clip_norm:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain numbers, none where nothing is scaled."""
        return dict(self._scaler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint; of another precision, which has none, begin anew."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
