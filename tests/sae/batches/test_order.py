"""Global batch n is a pure function of (shard sizes, batch size, seed, n): every row once an epoch, well mixed."""

import random
from fractions import Fraction

import numpy as np
import pytest

from sae.batches.order import GROUP_SHARDS, LEAST_GROUP_SHARDS, BatchOrder, group_shards, interleaved_counts, part_of

SIZES = {
    "one shard": [100],
    "equal": [64] * 20,
    "ragged": [61, 64, 1, 64, 7, 64, 0, 64, 33],
    "many": [random.Random(0).randint(20, 40) for _ in range(70)],
    "smaller than a batch": [3] * 50,
}


@pytest.mark.parametrize("rows", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_are_full_and_no_row_comes_twice_in_an_epoch(rows, batch_size):
    seen = [np.zeros(count, int) for count in rows]
    order = BatchOrder(tuple(rows), batch_size, seed=3, group_shards=16)
    for n in range(order.batches_per_epoch):
        slices = order.slices(n)
        assert sum(stop - start for _, start, stop in slices) == batch_size
        for shard, start, stop in slices:
            assert 0 <= start < stop <= rows[shard]
            seen[shard][start:stop] += 1
    counts = np.concatenate(seen)
    assert counts.max() == 1
    assert (counts == 0).sum() == sum(rows) % batch_size


def test_a_batch_takes_a_slice_in_proportion_from_every_shard_of_its_group():
    rows = (1000,) * 12 + (500,) * 4
    order = BatchOrder(rows, 140)
    for n in range(order.batches_per_epoch):
        slices = order.slices(n)
        assert {shard for shard, _, _ in slices} == set(range(16))
        for shard, start, stop in slices:
            assert abs((stop - start) - 140 * rows[shard] / sum(rows)) <= 2


def test_groups_are_even_so_that_no_shard_is_alone():
    order = BatchOrder((100,) * 17, 80, group_shards=16)
    assert {len(order.slices(n)) for n in (0, 20)} == {9, 8}
    assert order.num_groups(0) == 2


def test_groups_are_as_large_as_memory_allows():
    assert group_shards(65_280, 1024) == 32  # shards of the default size at 512 float16: 64 MiB
    assert group_shards(32_640, 1024) == GROUP_SHARDS
    assert group_shards(65_280, 16_384) == LEAST_GROUP_SHARDS


def test_epochs_differ_and_the_seed_decides():
    order = BatchOrder((10,) * 40, 20)
    epoch = order.batches_per_epoch
    first = [order.slices(n) for n in range(epoch)]
    assert first == [BatchOrder((10,) * 40, 20).slices(n) for n in range(epoch)]
    assert first != [order.slices(epoch + n) for n in range(epoch)]
    assert first != [BatchOrder((10,) * 40, 20, seed=1).slices(n) for n in range(epoch)]


def test_the_shards_of_an_epoch_come_in_the_order_in_which_batches_need_them():
    order = BatchOrder(tuple(SIZES["ragged"] * 9), 50, group_shards=8)
    for epoch in (0, 1):
        shards = order.shards(epoch)
        assert sorted(shards) == [shard for shard, rows in enumerate(order.shard_rows) if rows]
        needed = [shard for n in range(order.batches_per_epoch) for shard, _, _ in order.slices(epoch * order.batches_per_epoch + n)]
        groups = np.array_split(shards, order.num_groups(epoch))
        group_of = {int(shard): group for group, members in enumerate(groups) for shard in members}
        seen = [group_of[shard] for shard in needed]
        assert seen == sorted(seen)


def test_a_group_knows_its_batches():
    order = BatchOrder((30,) * 20, 70, group_shards=8)
    for n in range(2 * order.batches_per_epoch):
        epoch, last = order.group(n)
        assert epoch == n // order.batches_per_epoch
        touching = [group for group in range(order.num_groups(epoch)) if n in order.group_batches(epoch, group)]
        assert touching[-1] == last
        members = np.array_split(order.shards(epoch), order.num_groups(epoch))
        assert {shard for shard, _, _ in order.slices(n)} <= {int(shard) for group in touching for shard in members[group]}


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_a_batch_are_disjoint_and_complete_for_any_number_of_ranks(seed):
    draw = random.Random(seed)
    order = BatchOrder(tuple(draw.randint(0, 90) for _ in range(draw.randint(20, 90))), draw.randint(1, 200), seed, draw.randint(8, 64))
    n, ranks = draw.randrange(2 * order.batches_per_epoch), draw.choice([1, 2, 3, 4, 8])
    slices, size = order.slices(n), order.batch_size
    parts = [part_of(slices, rank * size // ranks, (rank + 1) * size // ranks) for rank in range(ranks)]
    rows = [(shard, row) for shard, start, stop in slices for row in range(start, stop)]
    assert [(shard, row) for part in parts for shard, start, stop in part for row in range(start, stop)] == rows
    assert len(set(rows)) == len(rows) == size


def test_the_interleaving_is_that_of_its_definition():
    draw = random.Random(1)
    for _ in range(50):
        rows = [draw.randint(0, 30) for _ in range(draw.randint(1, 16))]
        order = sorted((Fraction(2 * i + 1, 2 * count), shard) for shard, count in enumerate(rows) for i in range(count))
        prefixes = range(sum(rows) + 2)  # a batch may end beyond the group
        expected = [np.bincount([shard for _, shard in order[:prefix]], minlength=len(rows)).tolist() for prefix in prefixes]
        assert interleaved_counts(np.array(rows), np.array(prefixes)).tolist() == expected


def test_a_batch_that_cannot_be_is_an_error():
    for rows in ((3,), ()):
        with pytest.raises(ValueError, match="at least one full batch"):
            BatchOrder(rows, 4)
    with pytest.raises(ValueError, match="expected n >= 0"):
        BatchOrder((10,), 4).slices(-1)


def test_a_batch_of_a_store_of_the_default_shards_holds_nearly_as_many_sequences_as_a_shuffle_of_everything():
    # 48 shards of 256 sequences, 512 wide in float16: groups of 24. The rows of a shard stand in the random order of its writer.
    draw = np.random.default_rng(0)
    sequences = [shard * 256 + draw.permutation(np.repeat(np.arange(256), 255)) for shard in range(48)]
    order = BatchOrder((65_280,) * 48, 4096, group_shards=group_shards(65_280, 1040))
    distinct = [len(set(np.concatenate([sequences[s][a:b] for s, a, b in order.slices(n)]).tolist())) for n in (0, 100, 400, 700)]
    shuffled = 12_288 * (1 - (1 - 1 / 12_288) ** 4096)
    in_order = 256
    assert np.mean(distinct) >= 0.85 * shuffled > 10 * in_order
