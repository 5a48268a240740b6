"""A summary of a tensor's numbers, added up block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN = float("nan")


@dataclass
class Summary:
    """Mean, deviation and bounds of the numbers that are not NaN, and how many are zero or NaN.

    The deviation is the population's (division by n), as numpy's; sums are in float64.
    """

    count: int = 0
    num_nan: int = 0
    num_zero: int = 0
    mean: float = NAN
    squares: float = 0.0  # sum of squared distances from the mean
    lowest: float = NAN
    highest: float = NAN

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]]) -> Summary:
        """The summary of all blocks."""
        whole = cls()
        for block in blocks:
            whole.add(block)
        return whole

    def add(self, block: NDArray[Any]) -> None:
        """Take in more numbers: an array of any shape and real type."""
        import numpy as np

        numbers = block.ravel().astype(np.float64)
        is_nan = np.isnan(numbers)
        known = numbers[~is_nan] if is_nan.any() else numbers
        before = self.count - self.num_nan
        self.count += numbers.size
        self.num_nan += int(is_nan.sum())
        self.num_zero += int((known == 0).sum())
        if not known.size:
            return
        low, high = float(known.min()), float(known.max())
        self.lowest, self.highest = (min(self.lowest, low), max(self.highest, high)) if before else (low, high)
        with np.errstate(invalid="ignore"):  # infinities have neither mean nor deviation
            mean = float(known.mean())
            squares = float(np.square(known - mean).sum())
        if not before:
            self.mean, self.squares = mean, squares
            return
        # Chan, Golub, LeVeque 1979: exact where a difference of two large sums would not be.
        together, distance = before + known.size, mean - self.mean
        self.mean += distance * known.size / together
        self.squares += squares + distance**2 * before * known.size / together

    @property
    def std(self) -> float:
        """The standard deviation; NaN without numbers."""
        known = self.count - self.num_nan
        return math.sqrt(self.squares / known) if known else NAN

    @property
    def zero_share(self) -> float:
        """Zeros among all numbers, from 0 to 1; 0 of an empty tensor."""
        return self.num_zero / self.count if self.count else 0.0

    @property
    def nan_share(self) -> float:
        """NaN among all numbers, from 0 to 1; 0 of an empty tensor."""
        return self.num_nan / self.count if self.count else 0.0
