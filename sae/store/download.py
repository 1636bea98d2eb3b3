"""Fetching a shard from an object store: ranges over several connections, hashed in their order as they arrive.

One connection to an object store gives some tens of MB/s, whatever the link; several give all of it. So a shard is cut into ranges, and all
shards that are being opened share `CONNECTIONS` connections. Each range is copied to its place in the shard's memory; a running XXH3-128 takes it as
soon as all ranges before it are there. The rows of the shard are handed out only when the whole has been compared with the receipt.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import xxhash

from sae.storage import Place

CONNECTIONS = 8
RANGE_BYTES = 8 * 2**20


class Downloads:
    """The connections of one reader.

    Args:
        place: of the store.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.requested_bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def fetch(self, key: str, size: int) -> tuple[pa.Buffer, str]:
        """The first `size` bytes of an object, and their XXH3-128 in hexadecimal.

        Raises:
            InputError: there is no such object.
            EOFError: it is shorter.
            StorageError: it could not be read.
        """
        memory = np.empty(size, np.uint8)
        ranges = [(start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES)]
        pending = [self._connections().submit(self._fetch_range, key, start, stop, memory) for start, stop in ranges]
        running = xxhash.xxh3_128()
        try:
            for (start, stop), arrived in zip(ranges, pending, strict=True):
                arrived.result()
                running.update(memory[start:stop].data)
        finally:
            _cancel(pending)
        return pa.py_buffer(memory), running.hexdigest()

    def _fetch_range(self, key: str, start: int, stop: int, memory: np.ndarray) -> None:
        data = self.place.get(key, start, stop)
        if len(data) != stop - start:
            raise EOFError(f"it ends at byte {start + len(data):,}")
        memory[start:stop] = np.frombuffer(data, np.uint8)
        with self._lock:
            self.requested_bytes += stop - start

    def _connections(self) -> ThreadPoolExecutor:
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(CONNECTIONS, "store-connection")
            return self._pool


def _cancel(pending: list[Future[None]]) -> None:
    for future in pending:
        future.cancel()
    for future in pending:
        if not future.cancelled():
            future.exception()  # a range in flight still writes into the memory: wait for it, and let its error be seen
