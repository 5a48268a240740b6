"""Scaling: a shift and a scale for each column of a table, measured on its training rows, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """The mean and the deviation of each column, float64 [n]."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scaling:
        """That which gives the rows [k, n] mean 0 and deviation 1; a constant column is only shifted."""
        deviation = rows.std(0, correction=0)
        return cls(rows.mean(0), torch.where(deviation > 0, deviation, 1.0))

    @classmethod
    def from_lists(cls, mean: list[float], deviation: list[float]) -> Scaling:
        """What `to_lists` gave."""
        return cls(torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64))

    def to_lists(self) -> tuple[list[float], list[float]]:
        """Mean and deviation, exactly."""
        return self.mean.tolist(), self.deviation.tolist()

    def __call__(self, rows: Tensor) -> Tensor:
        """From the user's units, float32."""
        return ((rows.double() - self.mean) / self.deviation).float()

    def inverse(self, rows: Tensor) -> Tensor:
        """Back to the user's units, float64, on whatever device the rows are."""
        return rows.double() * self.deviation.to(rows.device) + self.mean.to(rows.device)
