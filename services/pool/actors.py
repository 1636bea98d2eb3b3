"""The seam between a pool's decisions and the cluster: actors on Ray, or anything else that starts, runs, answers and can be killed.

Every request gets a number, and its answer comes once, through `wait`: what a pool does for an answer does not grow with the requests that are
still open.
"""

import contextlib
import itertools
import math
import os
import queue
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import ray

import sae.devices
from sae.errors import UserError
from sae.failure import WorkerLost, WorkerUnfit
from services.pool.devices import check_gpu_runtime

# glibc otherwise returns every tensor above 32 MB to the kernel when it is freed, and page faults take half of the CPU time.
WORKER_ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}

PULSE = "pulse"  # the threads of an actor that answer pings
LONGEST_REASON = 300  # characters of an environment's error


@dataclass(frozen=True)
class Answer:
    """Outcome of a request.

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

    def ping(self, actor: Any) -> int:
        """Ask a started actor whether its process lives, whatever it is doing; returns the request's number."""

    def wait(self, timeout_seconds: float) -> list[Answer]:
        """Answers that have come since the last call; waits for one, but not longer than that."""

    def kill(self, actor: Any) -> None:
        """End an actor; what it was asked may be answered with WorkerLost, or never."""

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def room(self) -> str:
        """Describe what the cluster has free."""

    def shut_down(self, actors: set[Any]) -> None:
        """End these actors, if there still is a cluster."""


class Host:
    """The actor around a worker. The worker is built in `start`, so that its errors arrive as themselves, not as a dead actor.

    Args:
        driver_host: the driver's node. An error on another node says where it was: that node may lack what the driver's has.
    """

    def __init__(self, driver_host: str) -> None:
        self._driver_host = driver_host

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> str:
        """Build the worker; returns what it may be called in a log."""
        time.sleep(wait_seconds)
        with named_by_node(self._driver_host):
            check_gpu_runtime()
            self._worker = worker(*arguments)
        return f"{worker.__name__} (process {os.getpid()} on {ray.util.get_node_ip_address()})"

    def run(self, task: Any, wait_seconds: float) -> Any:
        """Do a task."""
        time.sleep(wait_seconds)
        with named_by_node(self._driver_host):
            return self._worker.run(task)

    @ray.method(concurrency_group=PULSE)  # type: ignore[untyped-decorator]  # Ray's own types
    def ping(self) -> None:
        """Answer, from a thread that no task holds up."""


@contextlib.contextmanager
def named_by_node(driver_host: str) -> Iterator[None]:
    """Add the node to a mistake of the user's that is found on another node than the driver's.

    Raises:
        UserError: as itself, with a longer message.
    """
    try:
        yield
    except UserError as error:
        here = ray.util.get_node_ip_address()
        if here == driver_host:
            raise
        raise type(error)(f"{error} (found on node {here}, which must reach the same files as {driver_host}, where the command runs)") from None


class RayActors:
    """Actors on the connected Ray cluster, all with the same resources.

    Args:
        num_cpus: of each, as Ray counts them; rounded up, also its threads.
        num_gpus: of each.
        labels: that a node must have to be given one.
        concurrency: tasks that one actor works at.
    """

    def __init__(self, num_cpus: float = 1.0, num_gpus: float = 0.0, labels: Mapping[str, str] | None = None, concurrency: int = 1) -> None:
        environment = {"OMP_NUM_THREADS": str(max(1, math.ceil(num_cpus)))} | ({} if num_gpus else {sae.devices.VARIABLE: "cpu"})
        self._host = ray.remote(concurrency_groups={PULSE: 1})(Host).options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            label_selector=dict(labels) if labels else None,
            max_restarts=0,
            max_concurrency=concurrency,
            runtime_env={"env_vars": WORKER_ENVIRONMENT | environment},
        )
        self._numbers = itertools.count()
        self._answered: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> tuple[Any, int]:
        """Ask for an actor with its worker."""
        actor = self._host.remote(ray.util.get_node_ip_address())
        return actor, self._asked(actor.start.remote(worker, arguments, wait_seconds))

    def run(self, actor: Any, task: Any, wait_seconds: float) -> int:
        """Ask an actor to do a task."""
        return self._asked(actor.run.remote(task, wait_seconds))

    def ping(self, actor: Any) -> int:
        """Ask an actor whether its process lives."""
        return self._asked(actor.ping.remote())

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
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    ours = not isinstance(error, ImportError | ray.exceptions.RayError) or isinstance(error, ray.exceptions.RayTaskError)
    return Answer(number, error=error if ours and isinstance(error, Exception) else observed(error))


def observed(error: BaseException) -> WorkerLost | WorkerUnfit:
    """Classify an error of Ray, or a failed import: the worker is lost, or unable to work where it was started."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or ["no message"]
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return WorkerUnfit(f"Ray cannot set up its environment: {' '.join(lines[1:] or lines)[:LONGEST_REASON]}")
    missing = re.search(r"No module named '[^']+'|cannot import name '[^']+'", str(error))
    if isinstance(error, ImportError) or missing:
        return WorkerUnfit(missing.group() if missing else lines[0][:LONGEST_REASON])
    return WorkerLost(lines[0])
