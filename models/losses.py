"""Losses: what training minimises, each as one value per sample so that ranks can add and average it exactly.

It owns their formulas and names. It does not know how a batch is shared out among ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dljobs.errors import UnknownName, UsageError

# How much of an auxiliary classifier's loss is added in training (Szegedy et al. 2015; for Inception v3 torchvision's
# references and the papers' own code have 0.4).
AUXILIARY_SHARE = 0.3
AUXILIARY_SHARES = {"InceptionOutputs": 0.4}


@dataclass(frozen=True)
class Loss:
    """A named loss.

    `of_tensor(output[n, …], target[n, …])` gives [n] values. Over a batch they are averaged, or summed where
    `averaged` is False: then the gradient grows with the batch, as in introductions that minimise a sum of errors.
    """

    name: str
    of_tensor: Callable[[Tensor, Tensor], Tensor]
    averaged: bool = True

    def per_sample(self, output: Tensor | tuple[Tensor | None, ...], target: Tensor) -> Tensor:
        """The values [n] of a batch. Of a named tuple, the first counts in full and auxiliary outputs as published."""
        if isinstance(output, Tensor):
            return self.of_tensor(output, target)
        main, *others = output
        assert main is not None
        auxiliary = [self.of_tensor(other, target) for other in others if other is not None]
        share = AUXILIARY_SHARES.get(type(output).__name__, AUXILIARY_SHARE)
        return self.of_tensor(main, target) + share * sum(auxiliary, torch.zeros_like(target, dtype=main.dtype))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The batch's loss as a scalar."""
        values = self.per_sample(output, target)
        return values.mean() if self.averaged else values.sum()


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UnknownName: there is none; the message holds the nearest name.
    """
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    return LOSSES[name]


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="none")


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return _difference(output, target).square()


def _absolute(output: Tensor, target: Tensor) -> Tensor:
    return _difference(output, target).abs()


def _difference(output: Tensor, target: Tensor) -> Tensor:
    """[n, values per sample]. Raises UsageError where the shapes differ."""
    # [n, 1] against [n] would broadcast to [n, n] and train towards the mean, silently.
    if output.shape != target.shape:
        raise UsageError(
            f"the model's output has shape {tuple(output.shape)} and the data's target {tuple(target.shape)}",
            hint="for classes use the loss cross_entropy",
        )
    difference = output - target
    return difference.unsqueeze(1) if difference.ndim == 1 else difference.flatten(1)


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", _cross_entropy),
        Loss("mse", lambda output, target: _squared(output, target).mean(1)),
        Loss("l1", lambda output, target: _absolute(output, target).mean(1)),
        Loss("sse", lambda output, target: _squared(output, target).sum(1), averaged=False),
        Loss("sae", lambda output, target: _absolute(output, target).sum(1), averaged=False),
    )
}
