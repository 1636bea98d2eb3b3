"""The seam between a pool's decisions and the cluster: actors on Ray, or anything else that starts, runs, answers and can be killed.

Every request gets a number, and its answer comes once, through `wait`: what a pool does for an answer does not grow with the requests that are
still open.
"""

import itertools
import math
import queue
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from services.devices import check_gpu_runtime
from services.failure import WorkerLost

# glibc otherwise returns every tensor above 32 MB to the kernel when it is freed, and page faults take half of the CPU time.
WORKER_ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        request: its number.
        result: what was returned.
        error: what was raised there instead, or WorkerLost where the actor died.
    """

    request: int
    result: Any = None
    error: Exception | None = None


class Actors(Protocol):
    """A cluster as a pool sees it."""

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> tuple[Any, int]:
        """Ask for an actor that builds `worker(*arguments)` after `wait_seconds`; returns it and the request's number."""

    def run(self, actor: Any, task: Any, wait_seconds: float) -> int:
        """Ask an actor to do a task after `wait_seconds`; returns the request's number."""

    def wait(self, timeout_seconds: float) -> list[Answer]:
        """Answers that have come since the last call; waits for one, but not longer than that."""

    def kill(self, actor: Any) -> None:
        """End an actor; what it was asked may be answered with WorkerLost, or never."""

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def room(self) -> str:
        """What the cluster has free, in words."""

    def shut_down(self, actors: set[Any]) -> None:
        """End these actors, if there still is a cluster."""


class Host:
    """The actor around a worker. The worker is built in `start`, so that its errors arrive as themselves, not as a dead actor."""

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> None:
        """Build the worker."""
        time.sleep(wait_seconds)
        check_gpu_runtime()
        self._worker = worker(*arguments)

    def run(self, task: Any, wait_seconds: float) -> Any:
        """Do a task."""
        time.sleep(wait_seconds)
        return self._worker.run(task)


class RayActors:
    """Actors on the connected Ray cluster, all with the same resources.

    Args:
        num_cpus: of each, as Ray counts them; rounded up, also its threads.
        num_gpus: of each.
        labels: that a node must have to be given one.
        concurrency: tasks that one actor works at.
    """

    def __init__(self, num_cpus: float = 1.0, num_gpus: float = 0.0, labels: Mapping[str, str] | None = None, concurrency: int = 1) -> None:
        threads = {"OMP_NUM_THREADS": str(max(1, math.ceil(num_cpus)))}
        self._host = ray.remote(Host).options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            label_selector=dict(labels) if labels else None,
            max_restarts=0,
            max_concurrency=concurrency,
            runtime_env={"env_vars": {**WORKER_ENVIRONMENT, **threads}},
        )
        self._numbers = itertools.count()
        self._answered: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> tuple[Any, int]:
        """Ask for an actor with its worker."""
        actor = self._host.remote()
        return actor, self._asked(actor.start.remote(worker, arguments, wait_seconds))

    def run(self, actor: Any, task: Any, wait_seconds: float) -> int:
        """Ask an actor to do a task."""
        return self._asked(actor.run.remote(task, wait_seconds))

    def wait(self, timeout_seconds: float) -> list[Answer]:
        """Answers that have come; Ray delivers each by itself, where `ray.wait` would look at all that are open."""
        answers: list[Answer] = []
        try:
            answers.append(_answer(*self._answered.get(timeout=timeout_seconds)))
            while True:
                answers.append(_answer(*self._answered.get_nowait()))
        except queue.Empty:
            return answers

    def kill(self, actor: Any) -> None:
        """End an actor."""
        ray.kill(actor, no_restart=True)

    def now(self) -> float:
        """Seconds on this process' monotonic clock."""
        return time.monotonic()

    def room(self) -> str:
        """CPUs and GPUs that are free."""
        free = ray.available_resources()
        return f"the cluster has {free.get('CPU', 0):g} and {free.get('GPU', 0):g} free"

    def shut_down(self, actors: set[Any]) -> None:
        """End these actors."""
        if ray.is_initialized():  # a forgotten iterator is closed by the interpreter's exit, after Ray
            for actor in actors:
                self.kill(actor)

    def _asked(self, reference: Any) -> int:
        number = next(self._numbers)
        reference.future().add_done_callback(lambda future: self._answered.put((number, future)))
        return number


def _answer(number: int, future: "Future[Any]") -> Answer:
    error = future.exception()
    if error is None:
        return Answer(number, future.result())
    if isinstance(error, ray.exceptions.RayTaskError):
        return Answer(number, error=error.cause if isinstance(error.cause, Exception) else error)
    return Answer(number, error=WorkerLost((str(error).strip().splitlines() or ["no message"])[0]))
