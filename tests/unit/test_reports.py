"""What events become in the database; how they get there is in tests/integration/test_reports.py."""

from __future__ import annotations

import math

from dljobs.service.metrics import Point
from dljobs.workers.reports import _points_of


def test_a_block_of_losses_is_a_point_for_each_step() -> None:
    block = {"type": "losses", "at": 7.0, "epoch": 2, "steps": [5, 10], "values": [0.5, 0.25]}
    assert _points_of([block]) == [Point(5, 2, "train", "loss", 0.5, 7.0), Point(10, 2, "train", "loss", 0.25, 7.0)]


def test_a_metric_that_is_no_number_is_nan() -> None:
    event = {"type": "metrics", "at": 7.0, "step": 5, "epoch": 2, "split": "test", "values": {"loss": None, "r2": 1.0}}
    lost, kept = _points_of([event, {"type": "alive", "at": 8.0}])
    assert math.isnan(lost.value)
    assert kept == Point(5, 2, "test", "r2", 1.0, 7.0)
