"""Endless training data: samples numbered without end, for runs that count in steps and not in passes over a set.

It owns the two ways to number them: the same points over and over (an optimization of a fixed function), or fresh
random ones. A sample follows from its number alone, so every rank and every continued run sees the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 4096  # samples that are drawn at once


class RepeatedSplit:
    """A few points `num_passes` times an epoch, in their order: with as many in a batch, each step sees all of them."""

    def __init__(self, x: Tensor, y: Tensor, num_passes: int) -> None:
        self.x = x
        self.y = y
        self.num_passes = num_passes

    def __len__(self) -> int:
        return len(self.x) * self.num_passes

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows = indices % len(self.x)
        return self.x[rows], self.y[rows]


class FreshSplit:
    """Random samples, each drawn once: `draw(generator, n)` gives the n of one block, x[n, …] and y[n, …]."""

    def __init__(
        self, draw: Callable[[torch.Generator, int], tuple[Tensor, Tensor]], num_samples: int, seed: int
    ) -> None:
        self.num_samples = num_samples  # of an epoch
        self.seed = seed
        self._draw = draw
        self._block = functools.lru_cache(maxsize=2)(self._drawn)  # a batch touches one block, or the edge of two

    def __len__(self) -> int:
        return self.num_samples

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        blocks = indices.div(BLOCK, rounding_mode="floor")
        first, last = blocks.aminmax()
        if first == last:
            x, y = self._block(int(first))
            return x[indices % BLOCK], y[indices % BLOCK]
        pairs = [self._block(block) for block in blocks.tolist()]
        rows = (indices % BLOCK).tolist()
        return (
            torch.stack([x[row] for (x, _), row in zip(pairs, rows, strict=True)]),
            torch.stack([y[row] for (_, y), row in zip(pairs, rows, strict=True)]),
        )

    def _drawn(self, block: int) -> tuple[Tensor, Tensor]:
        # Seeds that are neighbours give unrelated streams only after mixing, which manual_seed does not do.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + block) * 0x9E3779B97F4A7C15 % 2**63)
        return self._draw(generator, BLOCK)
