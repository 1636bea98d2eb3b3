"""The memory a run really takes: all its processes together, sampled."""

import threading
from types import TracebackType
from typing import Self

import psutil

SAMPLE_SECONDS = 2.0


class PeakMemory:
    """Samples the resident memory of this process and all its descendants, Ray's included, while the context is open.

    Attributes:
        peak_bytes: the most physical memory that all of them held at once, in bytes. A page that several share (a library, a
            memory-mapped shard, Ray's object store) counts once, its parts with each of its holders.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10 * SAMPLE_SECONDS if error is None else 0.0)  # a run that ends early has no time for a last sample

    def _sample(self) -> None:
        this = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident, [this, *this.children(recursive=True)])))
            if self._stop.wait(SAMPLE_SECONDS):
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss)
    except psutil.Error:
        return 0  # it ended between the listing and the look
