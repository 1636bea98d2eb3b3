"""Reports of a training process: progress, metrics, and the rows of its log."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sae.monitor import Monitor
from sae.storage import Place
from services.ending import afterwards
from services.training.sinks import Sink, SinkName, open_sinks

PROGRESS_SECONDS = 0.25
GAUGES = ("l0", "fvu", "dead_fraction", "step_seconds", "read_seconds", "sync_seconds", "learning_rate")


class Reporter:
    """Turns what `sae.training.engine.train` says into metrics and progress.

    Args:
        monitor: None reports nothing.
        stage: what the progress is called, and its unit.
        sinks: get every row and event as they come.
    """

    def __init__(self, monitor: Monitor | None, stage: str = "train/vectors", sinks: Sequence[Sink] = ()) -> None:
        self.monitor, self.stage, self.sinks = monitor, stage, sinks
        self._last_progress = -math.inf

    def progress(self, done: int, total: int) -> None:
        """Pass progress on, not more often than it can be looked at."""
        now = time.monotonic()
        if self.monitor and (done == total or now - self._last_progress >= PROGRESS_SECONDS):
            self._last_progress = now
            self.monitor.progress(self.stage, done, total)

    def record(self, dictionary: str, row: dict[str, Any]) -> None:
        """Export a log row or an event."""
        for sink in self.sinks:
            sink.record(dictionary, row)
        if self.monitor is None:
            return
        if row.get("event") == "resampled":
            self.monitor.add("monosem_train_resampled_total", row["resampled"], dictionary=dictionary)
        elif "event" not in row:
            for term, loss in row["losses"].items():
                self.monitor.set("monosem_train_loss", loss, dictionary=dictionary, term=term)
            for name in GAUGES:
                if row[name] is not None:
                    self.monitor.set(f"monosem_train_{name}", row[name], dictionary=dictionary)
            self.monitor.add("monosem_train_vectors_total", row["window_vectors"], dictionary=dictionary)


@contextlib.contextmanager
def reporting(monitor: Monitor | None, stage: str, log_to: tuple[SinkName, ...], output: Place) -> Iterator[Reporter]:
    """A reporter whose tools are closed when the `with` block ends.

    Raises:
        InputError: as `check_sinks`.
    """
    sinks = open_sinks(log_to, output)

    def close_sinks() -> None:
        for sink in sinks:
            sink.close()

    with afterwards("closing what training logs to", close_sinks):
        yield Reporter(monitor, stage, sinks)
