"""Global batch n is a pure function of (shard sizes, batch size, seed, n): every row once an epoch, well mixed."""

import random
from fractions import Fraction

import numpy as np
import pytest

from sae.batches.order import GROUP_SHARDS, batch_slices, batches_per_epoch, interleaved_counts

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
    for n in range(batches_per_epoch(rows, batch_size)):
        slices = batch_slices(rows, batch_size, seed=3, n=n)
        assert sum(stop - start for _, start, stop in slices) == batch_size
        for shard, start, stop in slices:
            assert 0 <= start < stop <= rows[shard]
            seen[shard][start:stop] += 1
    counts = np.concatenate(seen)
    assert counts.max() == 1
    assert (counts == 0).sum() == sum(rows) % batch_size


def test_a_batch_takes_a_slice_in_proportion_from_every_shard_of_its_group():
    rows = [1000] * 12 + [500] * 4
    for n in range(batches_per_epoch(rows, 140)):
        slices = batch_slices(rows, 140, seed=0, n=n)
        assert {shard for shard, _, _ in slices} == set(range(16))
        for shard, start, stop in slices:
            assert abs((stop - start) - 140 * rows[shard] / sum(rows)) <= 2


def test_groups_are_even_so_that_no_shard_is_alone():
    rows = [100] * (GROUP_SHARDS + 1)
    assert {len(batch_slices(rows, 80, seed=0, n=n)) for n in (0, 20)} == {9, 8}


def test_epochs_differ_and_the_seed_decides():
    rows = [10] * 40
    epoch = batches_per_epoch(rows, 20)
    first = [batch_slices(rows, 20, seed=0, n=n) for n in range(epoch)]
    assert first == [batch_slices(rows, 20, seed=0, n=n) for n in range(epoch)]
    assert first != [batch_slices(rows, 20, seed=0, n=epoch + n) for n in range(epoch)]
    assert first != [batch_slices(rows, 20, seed=1, n=n) for n in range(epoch)]


def test_the_interleaving_is_that_of_its_definition():
    draw = random.Random(1)
    for _ in range(50):
        rows = [draw.randint(0, 30) for _ in range(draw.randint(1, 16))]
        order = sorted((Fraction(2 * i + 1, 2 * count), shard) for shard, count in enumerate(rows) for i in range(count))
        for prefix in range(sum(rows) + 1):
            expected = np.bincount([shard for _, shard in order[:prefix]], minlength=len(rows)).tolist()
            assert interleaved_counts(rows, prefix) == expected


@pytest.mark.parametrize(("rows", "n"), [([10], -1), ([3], 0), ([], 0)])
def test_a_batch_that_cannot_be_is_an_error(rows, n):
    with pytest.raises(ValueError, match="at least one full batch"):
        batch_slices(rows, 4, seed=0, n=n)
