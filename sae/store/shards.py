"""Shards that are open for reading: each verified once, shared by all threads, the least recently used closed first.

**Verification.** The XXH3-128 of the whole object decides, together with its size and its rows. It is computed before the first row is handed
out: over the memory map where the store is local, and over the ranges as they arrive, in their order, where it is remote. A shard that is
closed and opened again is verified again where it came over the network; a local one is not, while the process lives.

**Memory.** A local shard is a memory map and costs none. A remote one is held as it came, compressed ones still compressed, so what is held is at
most `HELD_BYTES`, or what one group of the batch order takes where that is more.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from sae.store.schema import ShardRows

GROUP_BYTES = 2 * 2**30
"""Bytes of the shards whose rows are mixed with one another, at most (`sae.batches.order`)."""

READ_AHEAD_BYTES = 512 * 2**20
"""How much of the next group is fetched while the batches of one are made."""

HELD_BYTES = GROUP_BYTES + READ_AHEAD_BYTES
MOST_OPEN = 1024  # maps of a process are limited (65,530 by default on Linux)


@dataclass
class _Opened:
    rows: "Future[ShardRows]"
    held_bytes: int = 0


class OpenShards:
    """Shards that one process has open.

    Args:
        read: gives the verified rows of a shard by its key, and how many bytes of memory they take; called once for each opening, by
            whichever thread comes first, while the others that want the shard wait.
    """

    def __init__(self, read: Callable[[str], tuple[ShardRows, int]]) -> None:
        self._read = read
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self.held_bytes = 0

    def get(self, keys: Iterable[str]) -> list[ShardRows]:
        """The rows of several shards. Threads that want the same ones share the work of opening them.

        Raises:
            CorruptObjectError: a shard is not what its receipt promises.
        """
        wanted = list(keys)
        with self._lock:  # once for all, and not once for each: nearly always all are there
            found = [self._opened.get(key) for key in wanted]
            for key, opened in zip(wanted, found, strict=True):
                if opened:
                    self._opened.move_to_end(key)
        claimed = [opened or self._claim(key) for key, opened in zip(wanted, found, strict=True)]
        return [opened.rows.result() for opened in claimed]

    def close(self, keys: Iterable[str]) -> None:
        """Forget shards; what was handed out of them stays valid."""
        with self._lock:
            for key in keys:
                if key in self._opened and self._opened[key].rows.done():
                    self.held_bytes -= self._opened.pop(key).held_bytes

    def _claim(self, key: str) -> _Opened:
        with self._lock:
            opened = self._opened.get(key)
            if opened:
                self._opened.move_to_end(key)
                return opened
            opened = self._opened[key] = _Opened(Future())
        try:
            rows, held_bytes = self._read(key)
        except BaseException as error:
            with self._lock:
                del self._opened[key]
            opened.rows.set_exception(error)
            raise
        with self._lock:
            opened.held_bytes = held_bytes
            self.held_bytes += held_bytes
            opened.rows.set_result(rows)
            self._make_room(key)
        return opened

    def _make_room(self, newest: str) -> None:
        for key in list(self._opened):
            if self.held_bytes <= HELD_BYTES and len(self._opened) <= MOST_OPEN:
                return
            if key != newest and self._opened[key].rows.done():
                self.held_bytes -= self._opened.pop(key).held_bytes


def checksum(buffer: pa.Buffer) -> str:
    """XXH3-128 of an object in hexadecimal, as its receipt says it."""
    return xxhash.xxh3_128_hexdigest(buffer)
