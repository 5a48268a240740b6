"""Which stored weights `best`, `last` and an epoch mean; and how the curves of several runs become one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dljobs.errors import NotFound, UsageError
from dljobs.service.curves import join_runs
from dljobs.service.spec import JobSpec
from dljobs.service.weights import choose_state_dict


def spec(metric: str = "accuracy", goal: str = "max") -> JobSpec:
    return JobSpec("m", "d", "l", metric, goal)  # type: ignore[arg-type]


def row(row_id: int, epoch: int, *, run: int = 1, **metrics: Any) -> dict[str, Any]:
    columns = {"id": row_id, "run_number": run, "step": epoch * 10, "epoch": epoch}
    return {**columns, "metrics_json": json.dumps(metrics)}


ROWS = [
    row(1, 1, accuracy=0.5, loss=0.9),
    row(2, 2, accuracy=0.9, loss=0.3),
    row(3, 3, accuracy=0.9, loss=0.4),
    row(4, 4, accuracy=None, loss=float("nan")),
]


@pytest.mark.parametrize(
    ("which", "metric", "goal", "expected"),
    [
        ("last", "accuracy", "max", 4),
        ("best", "accuracy", "max", 3),  # of equals the later one
        ("best", "loss", "min", 2),
        ("best", "accuracy", "min", 1),
        ("best", "unheard-of", "max", 4),  # nobody has it: the newest
        ("2", "accuracy", "max", 2),
        ("02", "accuracy", "max", 2),
    ],
)
def test_choice(which: str, metric: str, goal: str, expected: int) -> None:
    assert choose_state_dict(ROWS, which, spec(metric, goal))["id"] == expected
    assert choose_state_dict(ROWS[::-1], which, spec(metric, goal))["id"] == expected


def test_a_later_run_is_newer_whatever_its_step() -> None:
    rows = [*ROWS, row(5, 1, run=2, accuracy=0.9)]
    assert choose_state_dict(rows, "last", spec())["id"] == 5
    assert choose_state_dict(rows, "best", spec())["id"] == 5
    assert choose_state_dict(rows, "1", spec())["id"] == 5


def test_what_is_not_there() -> None:
    with pytest.raises(NotFound, match="no weights yet"):
        choose_state_dict([], "best", spec())
    with pytest.raises(NotFound) as caught:
        choose_state_dict(ROWS, "7", spec())
    assert caught.value.hint == "there are those of 1, 2, 3, 4"
    for which in ("", "newest", "-1", "1.0", "²"):
        with pytest.raises(UsageError):
            choose_state_dict([], which, spec())


def test_a_run_that_resumes_replaces_what_it_repeats() -> None:
    first, second = [[1, 1, 1.0], [2, 1, 0.9], [3, 1, 0.8]], [[3, 1, 0.81], [4, 2, 0.7]]
    assert join_runs({2: second, 1: first}) == [*first[:2], *second]


def test_a_run_that_begins_anew_replaces_all() -> None:
    assert join_runs({1: [[1, 1, 1.0], [9, 1, 0.1]], 2: [[1, 1, 2.0]]}) == [[1, 1, 2.0]]
    assert join_runs({1: [[1, 1, 1.0]], 2: []}) == [[1, 1, 1.0]]
    assert join_runs({}) == []
