"""Execution of a stage's tasks: an interface, and the executor that needs nothing but this process.

A stage is cut into tasks that may be done in any order and twice over. An executor does them and yields their results; the stage puts the results
together in the order of the tasks, so that what it leaves does not depend on the executor.

A worker is a plain class: its constructor does what is slow (load a model, open a corpus), `run(task)` does one task and returns something small.
Where a worker holds several tasks at once (`QueueOptions`), `run` is called from as many threads.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

import torch
from pydantic import Field, PositiveInt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sae.config import WEEK, Config, Gpus, Labels, Real
from sae.errors import StorageError
from sae.failure import Decision, decide, delay_seconds
from sae.monitor import SILENT, Monitor

Task = TypeVar("Task")
Range = tuple[int, int]


class PoolOptions(Config):
    """Resources of each worker, and the patience of the pool."""

    num_cpus: Real = Field(default=1.0, ge=0, le=1024, description="CPUs (as Ray counts them) of one worker; rounded up, also its threads")
    num_gpus: Gpus = Field(default=0.0, description="GPUs of one worker")
    labels: Labels = Field(default={}, description="labels that a Ray node must have to be given a worker, as a node group's")
    max_attempts: PositiveInt = Field(default=4, le=100, description="attempts that one task may take")
    task_timeout_seconds: Real = Field(
        default=3600.0, gt=0, le=WEEK, description="seconds after which a task is taken from its worker and done again"
    )
    start_timeout_seconds: Real = Field(
        default=600.0, gt=0, le=WEEK, description="seconds without a single started worker after which the pool gives up"
    )

    @property
    def threads(self) -> int:
        """Threads that one worker computes with; figures depend on it in their last bits."""
        return max(1, math.ceil(self.num_cpus))

    @property
    def tasks_at_once(self) -> int:
        """Tasks that one worker holds."""
        return 1


class QueueOptions(PoolOptions):
    """Options of a pool whose workers hold several tasks at once."""

    queue: PositiveInt = Field(default=2, le=64, description="tasks that one worker holds at once: one computes while the others are being written")

    @property
    def tasks_at_once(self) -> int:
        """Tasks that one worker holds."""
        return self.queue


class Executor(Protocol):
    """Does tasks: in this process, or on the workers of a cluster.

    Attributes:
        monitor: is told of tasks that were done and of attempts that failed, and by the stages of their progress.
    """

    monitor: Monitor

    def run(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Task], num_workers: int, options: PoolOptions
    ) -> Iterator[tuple[Task, Any]]:
        """Yield `(task, worker(*arguments).run(task))` for every task, in the order of completion.

        Args:
            worker: a class with `run(task)`, safe to run twice. A class attribute `TASKS_METRIC` names a counter of its tasks by `outcome`.
            arguments: of its constructor; small values such as configs and URLs.
            tasks: small values; each is done exactly once as far as the caller sees.
            num_workers: at most.
            options: resources, attempts and timeouts of a worker.

        Raises:
            UserError, FailureError: raised by a worker, as itself.
        """


class InProcess:
    """Does tasks in this process with a single worker, in their order; needs no cluster.

    It computes with the threads that one worker of a cluster would have, so its results are the same to the bit. What a worker raises comes as
    itself, except that a store that fails is tried again as often as `PoolOptions.max_attempts` allows. Resources, labels and timeouts of the
    options do not apply.

    Args:
        monitor: told of what is done.
    """

    def __init__(self, monitor: Monitor = SILENT) -> None:
        self.monitor = monitor

    def run(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Task], num_workers: int, options: PoolOptions
    ) -> Iterator[tuple[Task, Any]]:
        """Yield `(task, worker(*arguments).run(task))` for every task; see `Executor`."""
        if not tasks:
            return
        with computing_threads(options.threads):
            built = worker(*arguments)

            def attempt(task: Task) -> Any:
                return _patiently(lambda: built.run(task), options.max_attempts, self.monitor)

            for task, result in _finished(attempt, tasks, options.tasks_at_once):
                if metric := getattr(worker, "TASKS_METRIC", None):
                    self.monitor.add(metric, 1, outcome="committed")
                yield task, result


@contextlib.contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with so many threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def ranges(count: int, step: int) -> list[Range]:
    """Cut `[0, count)` into ranges `[start, stop)` of at most `step`."""
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def in_order(results: Iterable[tuple[Task, Any]], tasks: Iterable[Task]) -> list[Any]:
    """Collect all results and return them in the order of their tasks, whatever the order of completion."""
    found = dict(results)
    return [found[task] for task in tasks]


def with_progress(
    results: Iterable[tuple[Task, Any]], monitor: Monitor, stage: str, total: int, size: Callable[[Task], int], metric: str | None = None
) -> Iterator[tuple[Task, Any]]:
    """Pass results on and report how far the stage is.

    Args:
        results: of an executor.
        monitor: told of progress.
        stage: its name and unit, such as `evaluate/tokens`.
        total: units of the whole stage.
        size: units of a task.
        metric: a counter of these units.
    """
    done = 0
    for task, result in results:
        done += size(task)
        monitor.progress(stage, done, total)
        if metric:
            monitor.add(metric, size(task))
        yield task, result


def _finished(attempt: Callable[[Task], Any], tasks: Sequence[Task], at_once: int) -> Iterator[tuple[Task, Any]]:
    """Do tasks, so many at once, and yield each as it is finished."""
    if at_once == 1:
        yield from ((task, attempt(task)) for task in tasks)
        return
    waiting, running = deque(tasks), dict[Future[Any], Task]()
    with ThreadPoolExecutor(at_once, thread_name_prefix="worker") as threads:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    task = waiting.popleft()
                    running[threads.submit(attempt, task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def _patiently(work: Callable[[], Any], max_attempts: int, monitor: Monitor) -> Any:
    """Do the work, again where the store failed."""
    attempts = 0
    while True:
        try:
            return work()
        except StorageError as error:
            attempts += 1
            monitor.add("monosem_store_errors_total", 1)
            if decide(error, attempts, max_attempts) is not Decision.RETRY:
                raise
            time.sleep(delay_seconds(attempts))
