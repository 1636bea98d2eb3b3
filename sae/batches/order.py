"""Rows of global batch n: a pure function of the shards' sizes, the batch size, the seed and n.

Each epoch takes the shards in a shuffled order, in groups. Within a group the rows of all its shards interleave in proportion to their
number, so a batch takes one contiguous slice of every shard of the group, and each shard is read once from its first row to its last. The
writer has shuffled the rows inside each shard already.

**Mixing.** A batch of B rows from a group that holds S sequences is, but for a row more or less a shard, B rows drawn without replacement from
all rows of the group: two rows of the batch are of one sequence with probability 1/S, where a shuffle of everything would have 1/(all
sequences) and reading in order has nearly 1. What a mean over the batch loses by that is Kish's design effect, 1 + (m − 1)·ρ, where m is the
mean number of rows of the batch that share a row's sequence (itself included) and ρ the correlation of two activations of one sequence (the
intraclass correlation). So a group should hold many sequences: as many shards as fit into `GROUP_BYTES`, at least
`LEAST_GROUP_SHARDS`, at most `GROUP_SHARDS`. `tests/benchmarks/bench_store_read_local.py` measures both figures on real activations.

The price is memory where the store is remote: a group is held while its batches are made.

Reference: Kish 1965, "Survey Sampling", section 5.4 (design effect).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64

from sae.store.shards import GROUP_BYTES

GROUP_SHARDS = 64
LEAST_GROUP_SHARDS = 8
_BATCHES_AT_ONCE = 32  # whose bounds are worked out together: one by one, they take a fifth of the time of reading
Slice = tuple[int, int, int]
"""`(shard, start, stop)`: rows `[start, stop)` of a shard."""


@dataclass(frozen=True, eq=False)  # compared as itself: a hundred thousand shards would be hashed for every batch
class BatchOrder:
    """The order of all rows of a store, cut into batches.

    Args:
        shard_rows: rows of each shard.
        batch_size: rows of every batch; the rows of an epoch that fill no batch are dropped.
        seed: each epoch has its own order.
        group_shards: shards of a group, at most.

    Raises:
        ValueError: the shards hold fewer rows than one batch.
    """

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int = 0
    group_shards: int = GROUP_SHARDS

    def __post_init__(self) -> None:
        if self.batches_per_epoch == 0:
            raise ValueError(f"shards with {sum(self.shard_rows)} rows hold no batch of {self.batch_size}: expected at least one full batch")

    @cached_property
    def batches_per_epoch(self) -> int:
        """Full batches of one epoch."""
        return sum(self.shard_rows) // self.batch_size

    def slices(self, n: int) -> list[Slice]:
        """The slices that make up global batch `n`, counted from 0 over all epochs; together they have `batch_size` rows."""
        epoch, start = self._place(n)
        groups = _groups(self, epoch)
        slices = []
        for group in range(groups.at(start), groups.at(start + self.batch_size - 1) + 1):
            block, within = divmod(start // self.batch_size, _BATCHES_AT_ONCE)
            shards, bounds = _bounds(groups, group, self.batch_size, block)
            rows = zip(shards, bounds[within], bounds[within + 1], strict=True)
            slices += [(shard, begin, end) for shard, begin, end in rows if begin < end]
        return slices

    def group(self, n: int) -> tuple[int, int]:
        """`(epoch, group)` of the last row of batch `n`: what has to be open from now on."""
        epoch, start = self._place(n)
        return epoch, _groups(self, epoch).at(start + self.batch_size - 1)

    def group_batches(self, epoch: int, group: int) -> range:
        """The batches that take rows of a group."""
        starts = _groups(self, epoch).starts
        first = epoch * self.batches_per_epoch + starts[group] // self.batch_size
        last = epoch * self.batches_per_epoch + (starts[group + 1] - 1) // self.batch_size
        return range(first, min(last + 1, (epoch + 1) * self.batches_per_epoch))

    def num_groups(self, epoch: int) -> int:
        """Groups of an epoch."""
        return len(_groups(self, epoch).shards)

    def group_members(self, epoch: int, group: int) -> list[int]:
        """The shards of a group."""
        members: list[int] = _groups(self, epoch).shards[group].tolist()
        return members

    def shards(self, epoch: int) -> list[int]:
        """All shards that hold rows, in the order in which an epoch needs them."""
        return [int(shard) for group in _groups(self, epoch).shards for shard in group]

    def _place(self, n: int) -> tuple[int, int]:
        if n < 0:
            raise ValueError(f"batch {n}: expected n >= 0")
        epoch, index = divmod(n, self.batches_per_epoch)
        return epoch, index * self.batch_size


@dataclass(frozen=True, eq=False)
class _Groups:
    shards: list[Int64[np.ndarray, " shard"]]
    rows: list[Int64[np.ndarray, " shard"]]
    starts: list[int]
    """The first row of each group within the epoch, and the end of the last."""

    def at(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1


@lru_cache(maxsize=8)
def _groups(order: BatchOrder, epoch: int) -> _Groups:
    rows = np.array(order.shard_rows, dtype=np.int64)
    numbers = np.random.PCG64(np.random.SeedSequence([order.seed, epoch])).random_raw(len(rows))
    shuffled = np.argsort(numbers, kind="stable")
    shuffled = shuffled[rows[shuffled] > 0]
    # Groups of nearly equal size: a last group of one shard would mix nothing.
    groups = np.array_split(shuffled, -(-len(shuffled) // order.group_shards))
    sizes = [int(rows[group].sum()) for group in groups]
    return _Groups(groups, [rows[group] for group in groups], [0, *np.cumsum(sizes).tolist()])


@lru_cache(maxsize=8)
def _bounds(groups: _Groups, group: int, batch_size: int, block: int) -> tuple[list[int], list[list[int]]]:
    """The shards of a group, and how many rows of each are taken before each of a block of batches and after the last of them."""
    first = block * _BATCHES_AT_ONCE
    prefixes = np.arange(first, first + _BATCHES_AT_ONCE + 1) * batch_size - groups.starts[group]
    counts: list[list[int]] = interleaved_counts(groups.rows[group], np.maximum(prefixes, 0)).tolist()
    return groups.shards[group].tolist(), counts


def group_shards(rows_per_shard: int, row_bytes: int) -> int:
    """Shards of a group where a whole shard has so many rows of so many bytes."""
    return max(LEAST_GROUP_SHARDS, min(GROUP_SHARDS, GROUP_BYTES // max(1, rows_per_shard * row_bytes)))


def part_of(slices: list[Slice], start: int, stop: int) -> list[Slice]:
    """The slices of rows `[start, stop)` of the batch that `slices` make up."""
    part, first = [], 0
    for shard, begin, end in slices:
        low, high = begin + max(start - first, 0), min(end, begin + stop - first)
        if low < high:
            part.append((shard, low, high))
        first += end - begin
    return part


def interleaved_counts(rows: Int64[np.ndarray, " shard"], prefixes: Int64[np.ndarray, " prefix"]) -> Int64[np.ndarray, "prefix shard"]:
    """Count the rows of each shard among the first rows of their interleaving, for each number of first rows in `prefixes`.

    Row i of shard j, with r_j rows, stands at (i + 1/2) / r_j of the way; rows are taken in that order, a tie by the shard. Counts
    therefore never fall as a prefix grows, and each stays close to `prefix` · r_j / sum(r).

    Reference: the divisor method of Webster (Sainte-Laguë), which is house-monotone.
    """
    total, shards = int(rows.sum()), len(rows)
    prefixes = np.minimum(prefixes, total)[:, None]
    # All rows at or before the fraction (prefix - shards) / total are among the first `prefix`: rounding adds half a row a shard.
    counts = np.maximum(0, (2 * (prefixes - shards) * rows + total) // (2 * total))
    # Of the rest, no shard gets more than it would by proportion and rounding. Quotients of integers below 2^25 that differ stay apart
    # in float64, so this sort is exact.
    most = shards * int(rows.max()) // total + 3
    following = counts[:, :, None] + np.arange(most)
    stands = np.where(following < rows[:, None], (2 * following + 1) / (2 * np.maximum(rows, 1)[:, None]), np.inf)
    ranked = stands.reshape(len(prefixes), -1).argsort(axis=1, kind="stable")
    taken = np.empty_like(ranked)
    np.put_along_axis(taken, ranked, np.arange(shards * most) < prefixes - counts.sum(axis=1, keepdims=True), axis=1)
    found: Int64[np.ndarray, "prefix shard"] = counts + taken.reshape(stands.shape).sum(axis=2)
    return found
