"""Which samples a rank sees in a step: the same global batches for every number of ranks.

It owns the order of the samples and each rank's share of a batch, as pure functions of (seed, epoch, step, rank), so
that a run can be continued anywhere, also on another number of ranks. It knows no model and touches no global random
state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """A rank's share of one global batch."""

    indices: Tensor  # int64[n], never empty
    num_local: int  # how many of them count: n, or 0 where a small last batch had no sample for this rank
    num_global: int  # samples of the whole batch over all ranks

    def micro_batches(self, size: int) -> list[slice]:
        """Parts of the indices, of at most `size`; 0 is all in one."""
        num = len(self.indices)
        return [slice(start, min(start + (size or num), num)) for start in range(0, num, size or num)]


@dataclass(frozen=True)
class Batches:
    """The global batches of a training set, shared out among the ranks."""

    num_samples: int
    batch_size: int  # global
    seed: int
    rank: int = 0
    world_size: int = 1
    endless: bool = False  # see `dljobs.models.data.Data`

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one may be ragged."""
        return math.ceil(self.num_samples / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The permutation of all samples that an epoch walks through (endless: the next ones), int64[num_samples]."""
        if self.endless:
            return torch.arange((epoch - 1) * self.num_samples, epoch * self.num_samples)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        return torch.randperm(self.num_samples, generator=generator)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Shard]:
        """This rank's shards of an epoch, from its step `first_step` (counted from 0) on."""
        for batch in torch.split(self.order(epoch), self.batch_size)[first_step:]:
            yield self.share(batch)

    def share(self, batch: Tensor) -> Shard:
        """Contiguous shares whose sizes differ by at most one, the larger ones first."""
        indices = batch.tensor_split(self.world_size)[self.rank]
        if len(indices):
            return Shard(indices, len(indices), len(batch))
        # Every rank must take part in each backward pass: this one computes a sample that counts for nothing.
        return Shard(batch[:1], 0, len(batch))


def mix_seed(*parts: int) -> int:
    """One 63-bit seed out of several small numbers, such that neighbours give unrelated streams.

    SplitMix64's finalizer, Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + (part & mask) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
