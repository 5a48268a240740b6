from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dljobs.workers.sharding import Batches, mix_seed


def batches(rank: int, world_size: int, num_samples: int = 50, batch_size: int = 16) -> Batches:
    return Batches(num_samples, batch_size, seed=3, rank=rank, world_size=world_size)


@given(
    num_samples=st.integers(1, 60), batch_size=st.integers(1, 20), world_size=st.integers(1, 6), epoch=st.integers(1, 3)
)
def test_every_number_of_ranks_sees_the_same_batches(
    num_samples: int, batch_size: int, world_size: int, epoch: int
) -> None:
    whole = list(batches(0, 1, num_samples, batch_size).epoch(epoch))
    parts = zip(*(batches(r, world_size, num_samples, batch_size).epoch(epoch) for r in range(world_size)), strict=True)
    for one, shards in zip(whole, parts, strict=True):
        counted = [shard.indices[: shard.num_local] for shard in shards]
        assert torch.cat(counted).tolist() == one.indices.tolist()
        assert {shard.num_global for shard in shards} == {len(one.indices)} == {one.num_global}
        assert all(len(shard.indices) for shard in shards)
        sizes = [len(part) for part in counted]
        assert max(sizes) - min(sizes) <= 1
    assert sorted(torch.cat([shard.indices for shard in whole]).tolist()) == list(range(num_samples))


def test_the_order_changes_with_epoch_and_seed_only() -> None:
    first = batches(0, 1).order(1)
    torch.manual_seed(99)
    assert first.equal(batches(1, 4).order(1))
    assert not first.equal(batches(0, 1).order(2))
    assert not first.equal(Batches(50, 16, seed=4).order(1))


def test_an_epoch_can_be_taken_up_in_the_middle() -> None:
    whole = [shard.indices.tolist() for shard in batches(1, 2).epoch(2)]
    assert [shard.indices.tolist() for shard in batches(1, 2).epoch(2, first_step=2)] == whole[2:]
    assert list(batches(1, 2).epoch(2, first_step=4)) == []


def test_a_rank_without_samples_counts_nothing() -> None:
    *_, last = batches(3, 4).epoch(1)  # 50 samples in batches of 16: two are left for four ranks
    assert (len(last.indices), last.num_local, last.num_global) == (1, 0, 2)


def test_seeds_of_neighbours_differ() -> None:
    seeds = {mix_seed(seed, part) for seed in range(50) for part in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert mix_seed(-1) == mix_seed(-1)


def test_endless_samples_are_taken_in_their_order_and_never_again() -> None:
    endless = Batches(50, 16, seed=3, endless=True)
    taken = [int(index) for epoch in (1, 2, 3) for shard in endless.epoch(epoch) for index in shard.indices]
    assert taken == list(range(150))
    assert next(endless.epoch(2, 1)).indices.tolist() == list(range(66, 82))
