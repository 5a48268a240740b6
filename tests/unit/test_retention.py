"""Retention: the last, the best and every Nth stay; what others need stays; the rest goes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dljobs.service.retention import SMALL_BYTES, obsolete
from dljobs.service.spec import JobSpec, Training


def spec_of(**training: Any) -> JobSpec:
    return JobSpec("lenet", "digits", "cross_entropy", "accuracy", "max", training=Training(**training))


def rows_of(*steps: int, best: int = 0, run: int = 1, size: int = SMALL_BYTES) -> list[dict[str, Any]]:
    """One artifact every 5 steps; an epoch has 10, and leaves metrics. Ids are steps."""
    return [
        {
            "id": step,
            "run_number": run,
            "step": step,
            "epoch": -(-step // 10),
            "best": int(step == best),
            "size_bytes": size,
            "metrics_json": json.dumps({"accuracy": 1 / (1 + abs(step - best))} if step % 10 == 0 else {}),
        }
        for step in steps
    ]


def kept(
    rows: list[dict[str, Any]], kind: str = "checkpoint", wanted: tuple[int, ...] = (), **training: Any
) -> set[int]:
    return {row["id"] for row in rows} - set(obsolete(rows, kind, spec_of(**training), wanted))


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0, {20, 45, 50}), (1, {10, 20, 30, 40, 45, 50}), (2, {20, 40, 45, 50})],
)
def test_checkpoints_are_the_last_two_the_best_and_every_nth_epochs(every: int, expected: set[int]) -> None:
    assert kept(rows_of(*range(5, 55, 5), best=20), keep_checkpoints_every=every) == expected


def test_the_best_is_the_newest_that_was_the_best() -> None:
    rows = [*rows_of(10, best=10), *rows_of(20, 30, 40, best=20)]
    assert kept(rows) == {20, 30, 40}


def test_runs_of_a_job_are_one_history() -> None:
    """A later run went back to an earlier step: its checkpoints are the newest all the same."""
    rows = [*rows_of(10, 20, 30), *rows_of(15, 25, run=2)]
    assert kept(rows) == {15, 25}


def test_what_a_job_in_the_queue_begins_with_stays() -> None:
    assert kept(rows_of(10, 20, 30, 40), wanted=(10, 99)) == {10, 30, 40}


def test_small_state_dicts_all_stay_and_large_ones_only_the_last_the_best_and_every_nth() -> None:
    assert kept(rows_of(10, 20, 30, size=1000), "state_dict") == {10, 20, 30}
    assert kept(rows_of(10, 20, 30, 40, best=20), "state_dict") == {20, 40}
    assert kept(rows_of(10, 20, 30, 40, best=20, size=1000), "state_dict", keep_every=3) == {20, 30, 40}


def test_nothing_else_is_ever_dropped() -> None:
    assert obsolete(rows_of(10, 20, 30), "evaluation", spec_of()) == []
