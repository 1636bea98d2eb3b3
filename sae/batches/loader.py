"""Reading the batches of the order from a store, a few ahead of their use."""

import copy
import queue
import threading
from collections.abc import Iterator

import torch
from jaxtyping import Float32
from torch import Tensor

from sae.batches.order import Slice, batch_slices, batches_per_epoch, part_of
from sae.errors import InputError
from sae.store.reader import Store
from sae.store.schema import copy_rows

POLL_SECONDS = 0.1  # how soon the reading thread notices that nobody wants its batches any more


class Batches:
    """The global batches of a training run, each a function of (store, seed, n).

    Args:
        store: of the activations.
        hookpoint: which activations.
        batch_size: rows of every batch; the rows of an epoch that fill no batch are dropped.
        seed: of the order.
        epochs: passes over the store, each in its own order.

    Raises:
        HookpointError: the store has no such hookpoint.
        InputError: the store holds fewer rows than one batch.

    Example:
        ::

            batches = Batches(Store(Place("runs/quickstart/store")), "blocks.0.mlp.hook_post", batch_size=4096)
            for n, batch in batches.iterate(start=100):  # resumes with exactly the batch that comes next
                ...
    """

    def __init__(self, store: Store, hookpoint: str, batch_size: int, seed: int = 0, epochs: int = 1) -> None:
        self.store, self.hookpoint, self.batch_size, self.seed = store, hookpoint, batch_size, seed
        self.d_in = store.width(hookpoint)
        self._shard_rows = store.shard_rows(hookpoint)
        self.batches_per_epoch = batches_per_epoch(self._shard_rows, batch_size)
        if not self.batches_per_epoch:
            raise InputError(
                f"{store.place.url} holds {sum(self._shard_rows):,} rows at {hookpoint}, fewer than one batch of {batch_size:,}: "
                "harvest more, or choose a smaller batch_size"
            )
        self.num_batches = epochs * self.batches_per_epoch
        self.span = (0, batch_size)
        """The rows `[start, stop)` of every global batch that `batch` returns."""

    def __len__(self) -> int:
        return self.num_batches

    def share(self, rank: int, world_size: int) -> "Batches":
        """The same global batches, of which `batch` reads and returns only the rows `[rank·B // W, (rank + 1)·B // W)`.

        Laid one after the other, the shares of W ranks are the global batch, whatever W: so a run may go on with another number of ranks.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        share = copy.copy(self)
        share.span = (rank * self.batch_size // world_size, (rank + 1) * self.batch_size // world_size)
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

    def _slices(self, n: int) -> list[Slice]:
        if not 0 <= n < self.num_batches:
            raise IndexError(f"batch {n} of {self.num_batches}")
        return batch_slices(self._shard_rows, self.batch_size, self.seed, n)

    def batch(self, n: int) -> Float32[Tensor, "batch d_in"]:
        """Global batch `n`, counted from 0 over all epochs, or this rank's share of it.

        Raises:
            IndexError: there is no such batch.
            CorruptObjectError: a shard differs from its receipt.
        """
        slices = part_of(self._slices(n), *self.span)
        self.store.open(self.hookpoint, [shard for shard, _, _ in slices])
        batch = torch.empty(self.span[1] - self.span[0], self.d_in)
        filled = 0
        for shard, start, stop in slices:
            for piece in self.store.pieces(self.hookpoint, shard, start, stop):
                copy_rows(piece, batch[filled : filled + len(piece)])
                filled += len(piece)
        return batch

    def iterate(self, start: int = 0, stop: int | None = None, prefetch: int = 4) -> Iterator[tuple[int, Float32[Tensor, "batch d_in"]]]:
        """Yield `(n, batch)` for `start <= n < stop`, read by a thread at most `prefetch` batches ahead.

        An error of the thread is raised here, in its place in the order. The thread ends when the iterator ends or is closed.
        """
        stop = self.num_batches if stop is None else min(stop, self.num_batches)
        ahead: queue.Queue[tuple[int, Tensor | Exception]] = queue.Queue(maxsize=max(1, prefetch))
        ended = threading.Event()
        thread = threading.Thread(target=self._read_ahead, args=(range(start, stop), ahead, ended), name="batches", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                n, found = ahead.get()
                if isinstance(found, Exception):
                    raise found
                yield n, found
        finally:
            ended.set()
            thread.join()

    def _read_ahead(self, numbers: range, ahead: "queue.Queue[tuple[int, Tensor | Exception]]", ended: threading.Event) -> None:
        for n in numbers:
            try:
                found: Tensor | Exception = self.batch(n)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits for the batch
                found = error
            while not ended.is_set():
                try:
                    ahead.put((n, found), timeout=POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if ended.is_set() or isinstance(found, Exception):
                return
