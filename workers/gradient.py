"""The gradient of a global batch, on one rank: forward and backward passes, a micro-batch at a time if there is need.

What it adds up is the gradient of the whole batch's loss, up to the order of sums, for any number of ranks and size of
micro-batches; only what looks at a batch as a whole (batch normalisation) or draws for it (dropout) sees the pieces. It
knows neither the optimizer nor the run.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .loader import Batch, Take
from .narration import say
from .random_state import leaving_no_trace
from .sharding import Shard
from .strategies import Strategy
from .workload import Workload

# Where too large a batch is an exception that leaves the process whole. On a CPU the kernel kills it instead.
_TRIED_ON = ("cuda",)
# The second step is the first that has the optimizer's state in memory.
_NUM_TRIED = 2


class Gradient:
    """Leaves the gradient of one global batch after another in the parameters."""

    def __init__(self, workload: Workload, wrapped: nn.Module, strategy: Strategy, micro_batch_size: int) -> None:
        self._workload, self._wrapped, self._strategy = workload, wrapped, strategy
        self._size = micro_batch_size  # 0: all at once
        may_choose = not micro_batch_size and strategy.device.type in _TRIED_ON
        self._num_untried = _NUM_TRIED if may_choose else 0
        self._kept: tuple[float, Tensor] | None = None  # the last weights: nearly all steps have the same

    def compute(self, shard: Shard, take: Take) -> Tensor:
        """Add up the gradient, which has to be None before; returns this rank's sum of losses, on its device.

        Args:
            take: gives the samples of a part of the shard.

        Raises:
            torch.OutOfMemoryError: not even a micro-batch of one sample fits.
        """
        if self._num_untried:
            self._num_untried -= 1
            self._fit_into_memory(shard, take)
        *others, last = shard.micro_batches(self._size)
        # The ranks may have different numbers of them: they meet in the last one only, once in each step.
        with self._strategy.without_sync(self._wrapped) if others else nullcontext():
            sums = [self._add(self._wrapped, take(part), shard) for part in others]
        return sum(sums, self._add(self._wrapped, take(last), shard))

    @property
    def _device(self) -> torch.device:
        return self._strategy.device

    def _add(self, called: nn.Module, batch: Batch, shard: Shard) -> Tensor:
        x, y = batch
        x, y = x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)
        with self._workload.precision.autocast():
            losses = self._workload.loss.per_sample(called(x), y)
        torch.autograd.backward(losses, self._workload.precision.scaled(self._weights(losses, shard)))
        loss_sum = losses.detach().sum()
        return loss_sum if shard.num_local else loss_sum * 0

    def _weights(self, losses: Tensor, shard: Shard) -> Tensor:
        """How much the loss of each sample counts, where the backward pass begins; [n], as `losses`.

        DDP averages gradients over ranks: so weighted, the average is the gradient of the whole batch's loss, also
        where the last batch of an epoch is shared out unevenly.
        """
        weight = self._strategy.world_size / (shard.num_global if self._workload.loss.averaged else 1)
        weight = weight if shard.num_local else 0.0
        if self._kept is None or self._kept[0] != weight or self._kept[1].shape != losses.shape:
            self._kept = weight, torch.full_like(losses, weight)
        return self._kept[1]

    def _fit_into_memory(self, shard: Shard, take: Take) -> None:
        """Halve the micro-batch until all ranks have room for it.

        A rank that ran out of memory in a step would leave the others waiting for its gradients. So it is tried out
        without them, and what that did to buffers and random states is undone.
        """
        while True:
            error = self._try_out(shard, take)
            num_failed = int(self._strategy.all_sum(torch.tensor([float(error is not None)])).item())
            if not num_failed:
                return
            size = self._size or math.ceil(shard.num_global / self._strategy.world_size)
            if size == 1 and error is not None:
                raise error
            self._size = math.ceil(size / 2)
            if self._strategy.rank == 0:
                say(
                    f"out of memory with {size} samples at once: each rank takes {self._size} at a time from here on;"
                    " the batch of a step stays what it is"
                )

    def _try_out(self, shard: Shard, take: Take) -> torch.OutOfMemoryError | None:
        """Why there is no room for a micro-batch beside the gradient of another one; None if there is."""
        model, failure = self._workload.model, None
        alone = self._strategy.without_collectives(model, self._wrapped)
        with leaving_no_trace(model):
            try:
                for part in shard.micro_batches(self._size)[:2]:
                    self._add(alone, take(part), shard)
            except torch.OutOfMemoryError as error:
                # Without its traceback, whose frames hold the very tensors that there is no room for.
                failure = error.with_traceback(None)
        if failure is not None and self._device.type == "cuda":
            torch.cuda.empty_cache()
        return failure
