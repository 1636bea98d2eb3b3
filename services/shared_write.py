"""Write state down at once, however fast it changes: those who wait at the same time share one write."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedWrite(Generic[T]):
    """Writes a state in a thread; for the tasks of one event loop.

    A write takes some milliseconds on a disk and some ten in an object store. Whoever comes meanwhile waits for the next write, which
    holds the changes of all of them.

    Args:
        snapshot: a copy of the state, taken in the event loop.
        store: writes such a copy, in a thread.
    """

    def __init__(self, snapshot: Callable[[], T], store: Callable[[T], None]) -> None:
        self._snapshot, self._store = snapshot, store
        self._changes, self._stored = 0, 0
        self._writing = asyncio.Lock()

    async def now(self) -> None:
        """Return when the state of this moment, or a later one, is written."""
        self._changes += 1
        wanted = self._changes
        async with self._writing:
            if self._stored >= wanted:
                return
            held = self._changes
            await asyncio.to_thread(self._store, self._snapshot())
            self._stored = held
