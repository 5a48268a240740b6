"""Of which models DistributedDataParallel has to make the buffers equal before each step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dljobs.workers.strategies import Distributed, _has_buffers_that_matter


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


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_wrapping_a_model_puts_no_warning_into_the_log() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = Distributed(0, 1, 0, torch.device("cpu")).wrap(nn.Linear(2, 2))
    assert isinstance(wrapped, DistributedDataParallel)
