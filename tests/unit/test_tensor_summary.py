"""A tensor's summary, held against numpy over all numbers at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dljobs.service.tensor_summary import Summary

NUMBERS = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(0.0), st.just(math.nan)), max_size=30)


@given(NUMBERS, st.integers(1, 7))
def test_blocks_add_up(numbers: list[float], size: int) -> None:
    array = np.array(numbers)
    found = Summary.of(array[start : start + size] for start in range(0, len(array), size))
    known = array[~np.isnan(array)]
    assert found.count == len(array)
    assert found.nan_share == pytest.approx(np.isnan(array).mean() if len(array) else 0)
    assert found.zero_share == pytest.approx((array == 0).mean() if len(array) else 0)
    if not len(known):
        assert all(math.isnan(value) for value in (found.mean, found.std, found.lowest, found.highest))
        return
    assert found.mean == pytest.approx(known.mean(), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(known.std(), rel=1e-9, abs=1e-6)
    assert (found.lowest, found.highest) == (known.min(), known.max())


def test_a_small_deviation_far_from_zero() -> None:
    array = 1e8 + np.random.default_rng(0).normal(size=10_000)
    assert Summary.of(np.split(array, 10)).std == pytest.approx(array.std(), rel=1e-9)


def test_infinities_have_bounds_only() -> None:
    found = Summary.of([np.array([1.0, np.inf, -np.inf], np.float32)])
    assert (found.lowest, found.highest) == (-np.inf, np.inf)
    assert math.isnan(found.mean)


def test_counts_and_flags() -> None:
    assert Summary.of([np.array([True, False, True, True])]).mean == 0.75
    assert Summary.of([np.array(5)]).mean == 5
