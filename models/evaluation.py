"""Evaluation: how good a model is on a split, as sums that several ranks can add up.

It owns the counting: each sample once, whichever rank saw it. It does not know process groups: a rank all-reduces the
tensor of its tally and reads the result from the sum.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .data import Data, Split
from .losses import Loss

# A confusion matrix of 1,000 classes is 8 MB on the wire; above that only the counts per class are kept.
MAX_CONFUSION_CLASSES = 1000


class Tally:
    """Sums over evaluated samples: loss and number; for classes the correct ones, all, and the confusion matrix; for
    values the errors, and what their spread follows from.

    They lie in one flat float64 tensor (whole numbers stay exact up to 2^53), on the device where batches are counted:
    counting never waits for the GPU, and one all-reduce joins all ranks.
    """

    def __init__(self, class_names: tuple[str, ...], num_outputs: int, averaged: bool, values: Tensor) -> None:
        size = _size(len(class_names), num_outputs)
        if values.shape != (size,):
            what = f"{len(class_names)} classes" if class_names else f"{num_outputs} outputs"
            raise ValueError(f"a tally of {what} has {size} values, not {values.shape}")
        self.class_names = class_names  # none for regression
        self.num_outputs = num_outputs  # values of a target in regression, else 0
        self.averaged = averaged
        self.values = values

    @classmethod
    def empty(cls, data: Data, loss: Loss, device: torch.device | str = "cpu") -> Tally:
        """The tally of no samples: what a rank without any contributes."""
        num_outputs = 0 if data.names else data.test.batch(torch.tensor([0]))[1].numel()
        size = _size(len(data.names), num_outputs)
        return cls(data.names, num_outputs, loss.averaged, torch.zeros(size, dtype=torch.float64, device=device))

    def add(self, output: Tensor, target: Tensor, losses: Tensor) -> None:
        """Count a batch: output [n, classes] logits or [n, …] values, its target, and the loss of each sample [n]."""
        self.values[0] += losses.detach().double().sum()
        self.values[1] += len(losses)
        if self.class_names:
            self._add_classes(output, target)
        else:
            self._add_values(output, target)

    def _add_classes(self, output: Tensor, target: Tensor) -> None:
        num_classes = len(self.class_names)
        predicted = output.detach().argmax(1)
        ones = torch.ones(len(target), dtype=torch.float64, device=self.values.device)
        self._counts.index_add_(0, target, ones)
        self._correct.index_add_(0, target, (predicted == target).double())
        if num_classes <= MAX_CONFUSION_CLASSES:
            # A model may have more outputs than the data has classes: such a prediction is wrong and has no column.
            known = (predicted < num_classes).double()
            self._confusion.index_add_(0, target * num_classes + predicted.clamp(max=num_classes - 1), known)

    def _add_values(self, output: Tensor, target: Tensor) -> None:
        wanted = target.detach().double().reshape(len(target), -1)
        error = output.detach().double().reshape(len(target), -1) - wanted
        self.values[2] += error.square().sum()
        self.values[3] += error.abs().sum()
        self._target_sums += torch.stack([wanted.sum(0), wanted.square().sum(0)])

    def to_tensor(self) -> Tensor:
        """A copy of all sums, float64 [k]. The sum of several ranks' tensors is the tally of all their samples."""
        return self.values.clone()

    def with_tensor(self, values: Tensor) -> Tally:
        """The tally that holds these sums, e.g. the all-reduced ones."""
        return Tally(self.class_names, self.num_outputs, self.averaged, values)

    def __add__(self, other: Tally) -> Tally:
        return self.with_tensor(self.values + other.values)

    @property
    def num_samples(self) -> int:
        return int(self.values[1])

    def result(self) -> dict[str, Any]:
        """What to report, as plain JSON values.

        `loss` is the mean over samples, or the sum for a summed loss; None if it is not finite or there are no samples.
        For classes also `accuracy` and `per_class`, from name to accuracy; None where there are no samples.
        For values also `mse` and `mae`, means over samples and outputs in the data's units, and `r2`, the share of the
        targets' variance that is explained (summed over outputs; None where the targets do not vary).
        """
        loss_sum, num_samples = self.values[:2].tolist()
        loss = loss_sum if not self.averaged else loss_sum / num_samples if num_samples else math.nan
        result: dict[str, Any] = {"loss": _finite(loss), "num_samples": int(num_samples)}
        if self.class_names:
            correct, counts = self._correct.tolist(), self._counts.tolist()
            result["accuracy"] = _ratio(sum(correct), sum(counts))
            result["per_class"] = {
                name: _ratio(right, count) for name, right, count in zip(self.class_names, correct, counts, strict=True)
            }
        else:
            squared, absolute = self.values[2:4].tolist()
            sums, squares = self._target_sums
            variation = float((squares - sums.square() / num_samples).sum()) if num_samples else 0.0
            # What is left by rounding where all targets are the same number.
            varies = variation > 1e-12 * float(squares.sum())
            result["mse"] = _finite(_ratio(squared, num_samples * self.num_outputs))
            result["mae"] = _finite(_ratio(absolute, num_samples * self.num_outputs))
            result["r2"] = _finite(1 - squared / variation) if varies else None
        return result

    def confusion(self) -> list[list[int]] | None:
        """Rows are true classes, columns predicted ones. None for regression and above 1,000 classes."""
        num_classes = len(self.class_names)
        if not 0 < num_classes <= MAX_CONFUSION_CLASSES:
            return None
        rows: list[list[int]] = self._confusion.view(num_classes, num_classes).long().tolist()
        return rows

    @property
    def _target_sums(self) -> Tensor:
        """[2, outputs]: the sum of the targets and of their squares."""
        return self.values[4:].view(2, self.num_outputs)

    @_target_sums.setter
    def _target_sums(self, sums: Tensor) -> None:
        self.values[4:] = sums.flatten()

    @property
    def _counts(self) -> Tensor:
        return self.values[2 : 2 + len(self.class_names)]

    @property
    def _correct(self) -> Tensor:
        return self.values[2 + len(self.class_names) : 2 + 2 * len(self.class_names)]

    @property
    def _confusion(self) -> Tensor:
        return self.values[2 + 2 * len(self.class_names) :]


def tally(
    model: nn.Module,
    split: Split,
    indices: Tensor,
    loss: Loss,
    data: Data,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    after_batch: Callable[[], None] = lambda: None,
) -> Tally:
    """Evaluate the samples at `indices` (int64 [n], each at most once), in eval mode and without gradients.

    Give it the bare model: a DistributedDataParallel wrapper broadcasts buffers in each forward, and would wait for
    ranks that have fewer batches.

    Raises:
        ValueError: an index comes twice.
    """
    if len(torch.unique(indices)) != len(indices):
        raise ValueError("an index comes twice: its sample would be counted twice")
    counted = Tally.empty(data, loss, device)
    with evaluating(model):
        for part in torch.split(indices, batch_size):
            x, y = split.batch(part)
            x, y = x.to(device), y.to(device)
            output = model(x)
            losses = loss.per_sample(output, y)
            counted.add(data.in_units(output), data.in_units(y), losses)
            after_batch()
    return counted


def shard_indices(num_samples: int, rank: int, world_size: int) -> Tensor:
    """The indices that a rank evaluates: all ranks' together are each sample exactly once, without padding."""
    return torch.arange(min(rank, num_samples), num_samples, world_size)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each module's own mode is restored (a frozen BatchNorm stays frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _size(num_classes: int, num_outputs: int) -> int:
    if num_outputs:
        return 4 + 2 * num_outputs
    return 2 + 2 * num_classes + (num_classes**2 if num_classes <= MAX_CONFUSION_CLASSES else 0)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
