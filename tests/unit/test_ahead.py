"""Working ahead: order, the bound, errors in their turn, and no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dljobs.service.ahead import ahead
from tests.waiting import wait_until


def test_all_items_in_their_order() -> None:
    assert list(ahead(iter(range(100)), 3)) == list(range(100))
    assert list(ahead(iter(()), 3)) == []


def test_it_runs_ahead_so_far_and_no_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    found = ahead(items(), 2)
    assert next(found) == 0
    wait_until(lambda: len(made) == 3, 5, "two items are made beyond the one in use")
    assert made == [0, 1, 2]
    assert list(found) == list(range(1, 10))


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    found = ahead(items(), 5)
    assert next(found) == 1
    with pytest.raises(ValueError, match="no second"):
        next(found)
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


def test_who_stops_early_leaves_no_thread() -> None:
    found = ahead(iter(range(1000)), 2)
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
