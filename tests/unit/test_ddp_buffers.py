"""Of which models DistributedDataParallel has to make the buffers equal before each step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dljobs.workers.strategies import _has_buffers_that_matter


class RunningMean(nn.BatchNorm1d):
    """A normalisation of somebody's own, whose forward may read what the usual one only writes."""


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))


@pytest.mark.parametrize(
    ("model", "matter"),
    [
        (nn.Linear(2, 2), False),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True)), False),
        (nn.Sequential(nn.BatchNorm2d(2), Scaled()), True),
        (RunningMean(2), True),
    ],
)
def test_only_what_a_training_step_may_read_is_broadcast(model: nn.Module, matter: bool) -> None:
    assert _has_buffers_that_matter(model) is matter
