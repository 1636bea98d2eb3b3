"""Reading the batches of the order from a store, a few ahead of their use."""

import contextlib
import copy
import ctypes
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor

from sae.batches.buffers import BatchBuffers
from sae.batches.order import BatchOrder, Slice, group_shards, part_of
from sae.batches.read_ahead import ReadAhead
from sae.errors import InputError
from sae.store import Store, StorePlan
from sae.store.schema import copy_rows, row_bytes

READING_THREADS = 2
RUN_ROWS = 8192
"""Batches are made in runs of up to so many rows: longer slices, and fewer hand-overs between threads."""


class Batches:
    """The global batches of a training run, each a function of (store, seed, n).

    Args:
        store: of the activations.
        hookpoint: which activations.
        batch_size: rows of every batch; the rows of an epoch that fill no batch are dropped.
        seed: of the order.
        epochs: passes over the store, each in its own order.
        dtype: of the batches; the store's own halves what goes to a GPU, which converts faster than anyone.

    Raises:
        HookpointError: the store has no such hookpoint.
        InputError: the store holds fewer rows than one batch.

    Example:
        ::

            batches = Batches(Store(Place("runs/quickstart/store")), "blocks.0.mlp.hook_post", batch_size=4096)
            for n, batch in batches.iterate(start=100):  # resumes with exactly the batch that comes next
                ...
    """

    def __init__(
        self, store: Store, hookpoint: str, batch_size: int, seed: int = 0, epochs: int = 1, dtype: torch.dtype = torch.float32
    ) -> None:  # fmt: skip
        self.store, self.hookpoint, self.batch_size, self.seed = store, hookpoint, batch_size, seed
        self.d_in = store.width(hookpoint)
        self.order = batch_order(store.plan, store.shard_rows(hookpoint), hookpoint, batch_size, seed)
        self.batches_per_epoch = self.order.batches_per_epoch
        self.num_batches = epochs * self.batches_per_epoch
        self.dtype = dtype
        self.span = (0, batch_size)
        """The rows `[start, stop)` of every global batch that `batch` returns."""
        self._buffers = BatchBuffers((batch_size, self.d_in), dtype)

    def __len__(self) -> int:
        return self.num_batches

    def share(self, rank: int, world_size: int) -> "Batches":
        """The same global batches, of which `batch` reads and returns only the rows `[rank·B // W, (rank + 1)·B // W)`.

        Laid one after the other, the shares of W ranks are the global batch, whatever W: so a run may go on with another number of ranks.
        The slices of a batch lie shard by shard, so each rank opens about 1/W of the shards.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        share = copy.copy(self)
        share.span = (rank * self.batch_size // world_size, (rank + 1) * self.batch_size // world_size)
        share._buffers = BatchBuffers((share.span[1] - share.span[0], self.d_in), self.dtype)
        return share

    def origin(self, n: int, row: int) -> tuple[int, int]:
        """`(shard, row within the shard)` of a row of global batch `n`, for messages; rows count over the global batch, shared or not.

        Raises:
            IndexError: there is no such batch or row.
        """
        if not 0 <= row < self.batch_size:
            raise IndexError(f"row {row} of a batch of {self.batch_size}")
        [(shard, begin, _)] = part_of(self._slices(n), row, row + 1)
        return shard, begin

    def batch(self, n: int) -> Float[Tensor, "batch d_in"]:
        """Global batch `n`, counted from 0 over all epochs, or this rank's share of it.

        Raises:
            IndexError: there is no such batch.
            CorruptObjectError: a shard differs from its receipt.
        """
        return self._read([n], threading.Event())[0]

    def iterate(self, start: int = 0, stop: int | None = None, prefetch: int = 4) -> Iterator[tuple[int, Float[Tensor, "batch d_in"]]]:
        """Yield `(n, batch)` for `start <= n < stop`, made by threads at most `prefetch` batches ahead.

        An error of a thread is raised here, in its place in the order. The threads end when the iterator ends or is closed.
        """
        stop = self.num_batches if stop is None else min(stop, self.num_batches)
        length = max(1, min(prefetch // READING_THREADS, RUN_ROWS // self.batch_size))
        runs = deque(range(first, min(first + length, stop)) for first in range(start, stop, length))
        ended, ahead = threading.Event(), deque[Future[list[Tensor]]]()
        opener = ReadAhead(self.store, self.hookpoint, self.order, self.span, stop, ended)
        pool = ThreadPoolExecutor(READING_THREADS, "batches", _compute_alone)
        try:
            for first in range(start, stop, length):
                opener.reach(first)
                while runs and runs[0].start <= first + max(prefetch - length + 1, 0):
                    ahead.append(pool.submit(self._read, runs.popleft(), ended))
                found = ahead.popleft().result()
                found.reverse()
                for n in range(first, first + len(found)):
                    yield n, found.pop()  # nothing here keeps what the caller gives up
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)
            opener.close()

    def _read(self, numbers: Sequence[int], ended: threading.Event) -> list[Tensor]:
        """The batches of a run: shard by shard, so that the rows that one shard gives to all of them are read on end."""
        whole = self.span == (0, self.batch_size)
        parts = [self._slices(n) if whole else part_of(self._slices(n), *self.span) for n in numbers]
        shards = list(dict.fromkeys(shard for part in parts for shard, _, _ in part))
        if not self.store.wait(self.hookpoint, shards, ended):
            raise InterruptedError("the batch iterator was closed")
        rows = dict(zip(shards, self.store.open(self.hookpoint, shards), strict=True))
        batches = [self._buffers.take() for _ in numbers]
        wanted: list[tuple[Slice, Tensor]] = []
        for batch, part in zip(batches, parts, strict=True):
            wanted += zip(part, torch.unsafe_split_with_sizes(batch, [stop - start for _, start, stop in part]), strict=True)
        wanted.sort(key=itemgetter(0))
        copy_rows([(rows[shard], start, stop, target) for (shard, start, stop), target in wanted])
        return batches

    def _slices(self, n: int) -> list[Slice]:
        if not 0 <= n < self.num_batches:
            raise IndexError(f"batch {n} of {self.num_batches}")
        return self.order.slices(n)


def _compute_alone() -> None:
    """Let torch take no other threads for what this one does, so that a copy need not be cut; nothing where its threads are not OpenMP's.

    `torch.set_num_threads` would do it for all threads of the process.
    """
    torch.get_num_threads()  # the first call in a thread sets its number
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).omp_set_num_threads(1)


def batch_order(plan: StorePlan, shard_rows: list[int], hookpoint: str, batch_size: int, seed: int) -> BatchOrder:
    """The order of the batches of a store: a function of its plan, its shards' rows, the batch size and the seed.

    Raises:
        InputError: the store holds fewer rows than one batch.
    """
    if sum(shard_rows) < batch_size:
        raise InputError(
            f"the store holds {sum(shard_rows):,} rows at {hookpoint}, fewer than one batch of {batch_size:,}: "
            "harvest more, or choose a smaller batch_size"
        )
    # By the widest hookpoint: row i of batch n must be the same token at every hookpoint, whatever its width.
    largest = group_shards(max(shard_rows), row_bytes(max(plan.hookpoints.values()), plan.dtype))
    return BatchOrder(tuple(shard_rows), batch_size, seed, largest)
