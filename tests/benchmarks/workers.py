"""Processes as a pool of one worker a core has them, but without Ray: of one torch thread, each keeps its worker from call to call."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

import torch

CORES = 2
_kept: list[Any] = []  # of a process, its worker


class Workers:
    """One process a core, as a context.

    Args:
        make: the worker of each, called there with `arguments`; done when this returns, so that loading is not timed.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._processes = [ProcessPoolExecutor(1, get_context("spawn"), _start, (make, arguments)) for _ in range(CORES)]
        self.call(_nothing, [None] * CORES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.shutdown()

    def call(self, function: Callable[[Any, Any], Any], shares: Sequence[Any]) -> list[Any]:
        """`function(worker, share)` in all processes at once; what each returned."""
        running = [process.submit(_call, function, share) for process, share in zip(self._processes, shares, strict=True)]
        return [each.result() for each in running]


def _start(make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    _kept.append(make(*arguments))


def _call(function: Callable[[Any, Any], Any], share: Any) -> Any:
    return function(_kept[0], share)


def _nothing(worker: Any, share: None) -> None:
    pass
