"""The model, the data and the loss of a job as one rank holds them, and the evaluation over all ranks.

What training and evaluation have in common. It knows neither optimizers nor steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dljobs.errors import DataError
from dljobs.models import published_weights
from dljobs.models.announcement import listening
from dljobs.models.build import build_model
from dljobs.models.data import Data, load_data
from dljobs.models.data_record import DataRecord
from dljobs.models.evaluation import Tally, shard_indices, tally
from dljobs.models.fit import parity
from dljobs.models.losses import Loss, find_loss
from dljobs.models.weights import load_weights

from .channel import EventWriter
from .folder import RunFolder, RunRequest, write_whole
from .narration import say
from .precision import Precision
from .random_state import seed_all
from .strategies import Strategy

# Without gradients a sample needs far less memory than in training, and small batches waste time.
_MIN_EVALUATION_BATCH = 256
ALIVE_EVERY_S = 1.0


@dataclass(frozen=True)
class Workload:
    """What a job computes with."""

    data: Data
    model: nn.Module  # raw, on the strategy's device
    loss: Loss
    precision: Precision

    @property
    def num_parameters(self) -> int:
        """Of the model; shared ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_workload(request: RunRequest, strategy: Strategy, channel: EventWriter) -> Workload:
    """Load the data and build the model, with the same initial weights on every rank and for every strategy."""
    spec = request.spec
    if strategy.rank == 0:
        channel.write("stage", text=f"loading {spec.data}")
    sources = RunFolder(Path(request.folder)).sources
    with listening(lambda text: channel.write("stage", text=text)):
        data = load_data(spec.data_at(sources), spec.data_options, Path(request.data_dir))
    _compare_origins(data, strategy)
    if spec.kind == "evaluate" and request.state_dict is not None:
        data = DataRecord.of_weights(Path(request.state_dict)).apply(data)
    seed_all(spec.training.seed)
    model = build_model(spec.model_at(sources), spec.model_options, data, spec.training.init)
    layout = torch.channels_last if spec.training.channels_last else torch.preserve_format
    model = model.to(strategy.device, memory_format=layout)  # type: ignore[call-overload]
    precision = Precision(spec.training.precision, strategy.device)
    if strategy.rank == 0 and (note := precision.describe()):
        say(note)
    return Workload(data, model, find_loss(spec.loss), precision)


def _compare_origins(data: Data, strategy: Strategy) -> None:
    """Each node has its own copy of a user's data. Raises DataError where they are not the same."""
    if data.origin is None:
        return
    digests = strategy.gather(data.origin.sha256)
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise DataError(
            f"{data.origin.place} is not the same on all nodes: sha256 {digests[0][:12]} for rank 0, "
            f"{digests[others[0]][:12]} for rank {others[0]}",
            "say which one is meant (#sha256=… behind an address), and remove the other",
        )


def evaluate_on_test(
    workload: Workload,
    wrapped: nn.Module,
    strategy: Strategy,
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], Tally]:
    """Evaluate the whole test split, each sample on one rank; all ranks return the same result.

    Args:
        after_batch: called equally often on all ranks, so that they may agree on something in it.
    """
    strategy.broadcast_buffers(workload.model)
    data = workload.data
    indices = shard_indices(len(data.test), strategy.rank, strategy.world_size)
    size = max(_MIN_EVALUATION_BATCH, batch_size // strategy.world_size)
    with workload.precision.autocast():
        counted = tally(
            strategy.without_collectives(workload.model, wrapped),
            data.test,
            indices,
            workload.loss,
            data,
            strategy.device,
            size,
            after_batch,
        )
    first = shard_indices(len(data.test), 0, strategy.world_size)  # the longest
    for _ in range(len(torch.split(first, size)) - len(torch.split(indices, size))):
        after_batch()
    over_all = counted.with_tensor(strategy.all_sum(counted.to_tensor()))
    return over_all.result(), over_all


def run_evaluation(request: RunRequest, strategy: Strategy, channel: EventWriter) -> None:
    """A job of kind "evaluate": load the given weights, evaluate, and leave the result as an artifact."""
    with published_weights.left_out():
        workload = load_workload(request, strategy, channel)
    assert request.state_dict is not None, "a job of kind evaluate has a state_dict"
    load_weights(workload.model, Path(request.state_dict))
    wrapped = strategy.wrap(workload.model)
    if strategy.rank == 0:
        channel.write("stage", text=f"evaluating on {len(workload.data.test)} samples")
    size = request.spec.training.batch_size
    result, over_all = evaluate_on_test(workload, wrapped, strategy, size, _SignOfLife(channel).give)
    if strategy.rank != 0:
        return
    path = Path(request.folder) / "artifacts" / "evaluation.json"
    data = workload.data
    is_of_values = data.num_classes is None
    detail = {"parity": parity(workload.model, data, strategy.device)} if is_of_values else {}
    write_whole(path, json.dumps({**result, "confusion": over_all.confusion(), **detail}, sort_keys=True).encode())
    metrics = scalars(result)
    channel.write("metrics", step=0, epoch=0, split="test", values=metrics)
    channel.write(
        "artifact", kind="evaluation", name="evaluation", path=str(path), step=0, epoch=0, metrics=metrics, best=False
    )
    channel.write("finished", result=result)


class _SignOfLife:
    """Tells about once a second that a long evaluation goes on."""

    def __init__(self, channel: EventWriter) -> None:
        self._channel = channel
        self._given_at = time.monotonic()

    def give(self) -> None:
        if time.monotonic() - self._given_at >= ALIVE_EVERY_S:
            self._given_at = time.monotonic()
            self._channel.write("alive")


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of a result: what metrics can hold."""
    return {
        name: float(value) for name, value in result.items() if isinstance(value, int | float) and name != "num_samples"
    }
