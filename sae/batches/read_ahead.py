"""Opening the shards that the coming batches need, and closing those behind: bounded memory, and connections that are never idle."""

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sae.batches.order import BatchOrder, part_of
from sae.errors import MonosemError
from sae.store import Store
from sae.store.shards import READ_AHEAD_BYTES

OPENING_THREADS = 2  # each fetches its shard over several connections


class ReadAhead:
    """Keeps open what the batches from the one last reached on need: its group, and `READ_AHEAD_BYTES` of the next.

    Args:
        store: whose shards.
        hookpoint: at which hookpoint.
        order: of the batches.
        span: the rows of each batch that are wanted.
        stop: the first batch that is not wanted.
        ended: set when nothing is wanted any more.
    """

    def __init__(self, store: Store, hookpoint: str, order: BatchOrder, span: tuple[int, int], stop: int, ended: threading.Event) -> None:
        self.store, self.hookpoint, self.order, self.span, self.stop, self.ended = store, hookpoint, order, span, stop, ended
        self._now: tuple[int, int] | None = None
        self._open: set[int] = set()
        self._pool = ThreadPoolExecutor(OPENING_THREADS, "batches-open")

    def reach(self, n: int) -> None:
        """Batch `n` is handed out next: batches before it are done with."""
        now = self.order.group(n)
        if now == self._now:
            return
        self._now = now
        wanted = self._members(*now)
        ahead_bytes, following = 0, self._after(*now)
        for shard in self._members(*following) if following else []:
            ahead_bytes += self.store.estimated_bytes(self.hookpoint, shard)
            if ahead_bytes > READ_AHEAD_BYTES:
                break
            wanted.append(shard)
        self.store.close(self.hookpoint, self._open - set(wanted))
        for shard in wanted:
            if shard not in self._open:
                self._pool.submit(self._open_one, shard)
        self._open = set(wanted)

    def close(self) -> None:
        """End the threads, once their shards are there, and close what this opened."""
        self._pool.shutdown(cancel_futures=True)
        self.store.close(self.hookpoint, self._open)

    def _open_one(self, shard: int) -> None:
        # Whoever makes the batch meets the same error, and raises it in its place in the order.
        with contextlib.suppress(MonosemError):
            if self.store.wait(self.hookpoint, [shard], self.ended):
                self.store.open(self.hookpoint, [shard])

    def _members(self, epoch: int, group: int) -> list[int]:
        """The shards of a group that hold wanted rows, in the order of the group."""
        batches = self.order.group_batches(epoch, group)
        if not batches:  # the last rows of an epoch, fewer than a batch
            return []
        samples: Sequence[int] = sorted({batches[0], batches[len(batches) // 2], batches[-1]})
        wanted = {shard for n in samples for shard, _, _ in part_of(self.order.slices(n), *self.span)}
        return [shard for shard in self.order.group_members(epoch, group) if shard in wanted]

    def _after(self, epoch: int, group: int) -> tuple[int, int] | None:
        following = (epoch, group + 1) if group + 1 < self.order.num_groups(epoch) else (epoch + 1, 0)
        batches = self.order.group_batches(*following)
        return following if batches and batches[0] < self.stop else None
