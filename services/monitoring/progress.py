"""The progress of a run's stages on the terminal, or in a log."""

import contextlib
import math
import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

from sae.log import log

REFRESH_SECONDS = 0.5
LINE_SECONDS = 15.0
ANSWER_TIMEOUT_SECONDS = 30.0


class Stages(Protocol):
    """Knows how far every stage is."""

    def stages(self) -> dict[str, tuple[int, int]]:
        """`(done, total)` of every stage, in the order they began."""


class ProgressDisplay:
    """Shows on the driver's standard error how far every stage is, whoever does the work; fed by the board.

    Bars with rate and time left on a terminal; elsewhere, in the log of a job, a line a stage and `LINE_SECONDS`.
    """

    def __init__(self, monitor: Stages) -> None:
        self._monitor = monitor
        self._show: _Bars | _Lines = _Bars() if sys.stderr.isatty() else _Lines()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(ANSWER_TIMEOUT_SECONDS if error is None else REFRESH_SECONDS)  # a run that ends early does not wait for the board
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._show.close()

    def _refresh_until_stopped(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self._refresh()
        self._refresh()

    def _refresh(self) -> None:
        for stage, (done, total) in self._monitor.stages().items():
            self._show.update(stage, done, total)


class _Bars:
    """One bar a stage."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        if stage not in self._bars:
            name, _, unit = stage.partition("/")
            self._bars[stage] = tqdm(total=total or None, desc=f"{name:<12}", unit=f" {unit or 'steps'}", unit_scale=True, dynamic_ncols=True)
        bar = self._bars[stage]
        if bar.disable:
            return  # closed: the stage is done, and its time and rate should not go on changing
        bar.total = total or None
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


class _Lines:
    """One line a stage, at its beginning, every `LINE_SECONDS` and at its end."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, done_then = self._first.setdefault(stage, (now, done))
        said, said_done = self._last.get(stage, (-math.inf, -1))
        if done == said_done or (done < total and now - said < LINE_SECONDS):
            return
        self._last[stage] = (now, done)
        name, _, unit = stage.partition("/")
        rate = (done - done_then) / (now - began) if now > began else 0.0
        log("progress", stage=name, done=done, total=total, unit=unit or "steps", per_second=round(rate, 1))

    def close(self) -> None:
        self._last.clear()
