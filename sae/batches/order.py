"""Which rows form global batch n: a pure function of the shards' sizes, the batch size, the seed and n.

Each epoch takes the shards in a shuffled order, in groups of up to `GROUP_SHARDS`. Within a group the rows of all its shards
interleave in proportion to their number, so a batch takes one contiguous slice of every shard of the group: it mixes up to
`GROUP_SHARDS` shards at the price of as many sequential reads. The writer has shuffled the rows inside each shard already.
"""

from functools import lru_cache

import numpy as np

GROUP_SHARDS = 16
Slice = tuple[int, int, int]
"""`(shard, start, stop)`: rows `[start, stop)` of a shard."""


def batches_per_epoch(shard_rows: list[int], batch_size: int) -> int:
    """Full batches of one epoch; the rows that remain are dropped."""
    return sum(shard_rows) // batch_size


def batch_slices(shard_rows: list[int], batch_size: int, seed: int, n: int) -> list[Slice]:
    """The slices that make up global batch `n`, counted from 0 over all epochs; together they have `batch_size` rows.

    Args:
        shard_rows: rows of each shard.
        batch_size: rows of every batch.
        seed: of the order; each epoch has its own order.
        n: the batch.

    Raises:
        ValueError: `n` is negative, or the shards hold fewer rows than one batch.
    """
    per_epoch = batches_per_epoch(shard_rows, batch_size)
    if n < 0 or per_epoch == 0:
        raise ValueError(f"batch {n} of {batch_size} rows from shards with {sum(shard_rows)} rows: expected n >= 0 and at least one full batch")
    epoch, index = divmod(n, per_epoch)
    start, stop = index * batch_size, (index + 1) * batch_size
    slices, first = [], 0
    for group in _epoch_groups(tuple(shard_rows), seed, epoch):
        rows = [shard_rows[shard] for shard in group]
        low, high = max(start - first, 0), min(stop - first, sum(rows))
        if low < high:
            bounds = zip(group, interleaved_counts(rows, low), interleaved_counts(rows, high), strict=True)
            slices += [(shard, begin, end) for shard, begin, end in bounds if begin < end]
        first += sum(rows)
    return slices


def part_of(slices: list[Slice], start: int, stop: int) -> list[Slice]:
    """The slices of rows `[start, stop)` of the batch that `slices` make up."""
    part, first = [], 0
    for shard, begin, end in slices:
        low, high = begin + max(start - first, 0), min(end, begin + stop - first)
        if low < high:
            part.append((shard, low, high))
        first += end - begin
    return part


def interleaved_counts(rows: list[int], prefix: int) -> list[int]:
    """How many rows of each shard are among the first `prefix` rows of their interleaving.

    Row i of shard j, with r_j rows, stands at (i + 1/2) / r_j of the way; rows are taken in that order, a tie by the shard. Counts
    therefore never fall as `prefix` grows, and each stays close to `prefix` · r_j / sum(r). In integers, so exact everywhere.

    Reference: the divisor method of Webster (Sainte-Laguë), which is house-monotone.
    """
    total = sum(rows)
    if prefix >= total:
        return list(rows)
    # All rows at or before the fraction (prefix - len(rows)) / total are among the first `prefix`: rounding adds half a row a shard.
    counts = [max(0, (2 * (prefix - len(rows)) * r + total) // (2 * total)) for r in rows]
    for _ in range(prefix - sum(counts)):
        # The next row stands at the least (2c + 1) / 2r; fractions are compared by cross-multiplication.
        best = -1
        for shard, (count, r) in enumerate(zip(counts, rows, strict=True)):
            if count < r and (best < 0 or (2 * count + 1) * rows[best] < (2 * counts[best] + 1) * r):
                best = shard
        counts[best] += 1
    return counts


@lru_cache(maxsize=4)
def _epoch_groups(shard_rows: tuple[int, ...], seed: int, epoch: int) -> list[list[int]]:
    numbers = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(len(shard_rows))
    order = np.argsort(numbers, kind="stable")
    order = order[np.array(shard_rows)[order] > 0]
    # Groups of nearly equal size: a last group of one shard would mix nothing.
    return [group.tolist() for group in np.array_split(order, -(-len(order) // GROUP_SHARDS))]
