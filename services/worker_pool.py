"""A pool of Ray actors that works through a list of tasks, whatever happens to the actors.

A worker is a plain class: its constructor does what is slow (load a model, open a corpus), `run(task)` does one task and returns
something small. It must be safe to run a task twice: a worker that dies after its work and before its answer leaves no trace of having
finished.

A worker may hold several tasks at once (`queue`): its `run` is then called from as many threads, and divides its work as it likes, for
instance computing for one task while another one's result is being written. A task is done when its `run` has returned, not before.

Tasks go only to workers that have started. A worker that waits for room on the cluster therefore holds nothing up: the others
do the work, and it joins when there is room.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from pydantic import Field, PositiveInt

from sae.config import Config
from sae.errors import StorageError, WorkerError
from services.failure import Decision, WorkerLost, decide, delay_seconds, final_error
from services.metrics import Monitor

# glibc otherwise returns every tensor above 32 MB to the kernel when it is freed, and page faults take half of the CPU time.
WORKER_ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}

POLL_TIMEOUT_SECONDS = 1.0  # how long one look at the pool waits: a stuck task is noticed this much later
RESULT_TIMEOUT_SECONDS = 60.0  # fetching a result that is ready, from another node

Task = TypeVar("Task")
logger = logging.getLogger(__name__)


class PoolOptions(Config):
    """What each worker occupies, and how patient the pool is."""

    num_cpus: float = Field(default=1.0, ge=0, description="CPUs (as Ray counts them) of one worker; rounded up, also its threads")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of one worker")
    max_attempts: PositiveInt = Field(default=4, description="attempts that one task may take")
    task_timeout_seconds: float = Field(default=3600.0, gt=0, description="seconds after which a task is taken from its worker and done again")
    start_timeout_seconds: float = Field(default=600.0, gt=0, description="seconds without a single started worker after which the pool gives up")


class QueueOptions(PoolOptions):
    """Of a pool whose workers bear several tasks at once."""

    queue: PositiveInt = Field(default=2, description="tasks that one worker holds at once: one computes while the others are being written")


def run_pool(
    worker: type,
    arguments: tuple[Any, ...],
    tasks: Sequence[Task],
    num_workers: int,
    options: PoolOptions | None = None,
    monitor: Monitor | None = None,
) -> Iterator[tuple[Task, Any]]:
    """Yield `(task, worker.run(task))` for every task, in the order of completion.

    Needs an initialised Ray. At most one task per worker is in flight, or `queue` of them with QueueOptions. When the iterator ends,
    is closed or raises, its own actors are killed and nothing else is.

    Args:
        worker: a plain class with `run(task)`; built as `worker(*arguments)` in its own process. A class attribute `TASKS_METRIC` names a
            counter of its tasks by `outcome` (committed, retried, failed).
        arguments: small values such as configs and URLs; they travel to every worker.
        tasks: small values; each is done exactly once as far as the caller sees.
        num_workers: actors, at most; never more than tasks.
        options: resources, attempts and timeouts.
        monitor: told of replaced workers (`monosem_worker_restarts_total`) and of a store that failed (`monosem_store_errors_total`).

    Raises:
        UserError: raised by a worker, at once and as itself.
        FailureError: our own error of a task that used up its attempts.
        WorkerError: any other error of such a task; or no worker could start.
    """
    pool = _Pool(worker, arguments, tasks, options or PoolOptions(), monitor)
    try:
        for _ in range(min(num_workers, len(tasks))):
            pool.start_worker()
        while pool.waiting or pool.num_running:
            pool.dispatch()
            finished = pool.collect()
            pool.dispatch()  # before the caller takes its time over the results
            yield from finished
    finally:
        pool.shut_down()


class _Host:
    """The actor around a worker. The worker is built in `start`, so that its errors arrive as themselves, not as a dead actor."""

    def start(self, worker: type, arguments: tuple[Any, ...], wait_seconds: float) -> None:
        time.sleep(wait_seconds)
        self._worker = worker(*arguments)

    def run(self, task: Any, wait_seconds: float) -> Any:
        time.sleep(wait_seconds)
        return self._worker.run(task)


@dataclass(eq=False)
class _Assignment:
    """A task and how often it was tried."""

    task: Any
    attempts: int = 0


@dataclass
class _InFlight:
    """What a Ray reference stands for: a worker's start (no assignment) or its task."""

    actor: Any
    assignment: _Assignment | None
    since: float
    """When it was asked for; a task that waits in its worker's queue is not yet running, but its time counts."""


class _Pool:
    def __init__(self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Any], options: PoolOptions, monitor: Monitor | None) -> None:
        self.worker, self.arguments, self.options, self.monitor = worker, arguments, options, monitor
        self.queue = options.queue if isinstance(options, QueueOptions) else 1
        self.waiting = deque(_Assignment(task) for task in tasks)
        self.loads: dict[Any, int] = {}  # tasks in flight of each worker that has started
        self.in_flight: dict[Any, _InFlight] = {}
        self.start_failures = 0  # since a worker last started
        self.without_worker_since = time.monotonic()

    @property
    def num_running(self) -> int:
        return sum(entry.assignment is not None for entry in self.in_flight.values())

    def start_worker(self) -> None:
        threads = {"OMP_NUM_THREADS": str(max(1, math.ceil(self.options.num_cpus)))}
        actor = (
            ray.remote(_Host)
            .options(
                num_cpus=self.options.num_cpus,
                num_gpus=self.options.num_gpus,
                max_restarts=0,
                max_concurrency=self.queue,
                runtime_env={"env_vars": {**WORKER_ENVIRONMENT, **threads}},
            )
            .remote()
        )
        reference = actor.start.remote(self.worker, self.arguments, delay_seconds(self.start_failures))
        self.in_flight[reference] = _InFlight(actor, None, time.monotonic())

    def dispatch(self) -> None:
        while self.waiting and self.loads:
            actor = min(self.loads, key=self.loads.__getitem__)
            if self.loads[actor] >= self.queue:
                return
            assignment = self.waiting.popleft()
            self.loads[actor] += 1
            reference = actor.run.remote(assignment.task, delay_seconds(assignment.attempts))
            self.in_flight[reference] = _InFlight(actor, assignment, time.monotonic())

    def collect(self) -> list[tuple[Any, Any]]:
        ready, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=POLL_TIMEOUT_SECONDS)
        results = []
        for reference in ready:
            entry = self.in_flight.pop(reference)
            try:
                result = ray.get(reference, timeout=RESULT_TIMEOUT_SECONDS)
            except ray.exceptions.RayTaskError as error:
                self._failed(entry, error.cause if isinstance(error.cause, Exception) else error)
            except ray.exceptions.RayError as error:
                self._failed(entry, WorkerLost(_first_line(error)))
            else:
                self.start_failures = 0
                if entry.assignment:
                    self.loads[entry.actor] -= 1
                    self._count("committed")
                    results.append((entry.assignment.task, result))
                else:
                    self.loads[entry.actor] = 0
        self._check_clocks()
        return results

    def shut_down(self) -> None:
        if not ray.is_initialized():  # a forgotten iterator is closed by the interpreter's exit, after Ray
            return
        for actor in {*self.loads, *(entry.actor for entry in self.in_flight.values())}:
            ray.kill(actor, no_restart=True)

    def _failed(self, entry: _InFlight, error: Exception) -> None:
        if entry.assignment:
            what = f"task {_short(entry.assignment.task)} of {self.worker.__name__}"
            attempts = entry.assignment.attempts = entry.assignment.attempts + 1
        else:
            what = f"the start of a {self.worker.__name__}"
            attempts = self.start_failures = self.start_failures + 1
        if self.monitor and isinstance(error, StorageError):
            self.monitor.add("monosem_store_errors_total", 1)
        decision = decide(error, attempts, self.options.max_attempts)
        if decision in (Decision.RAISE, Decision.GIVE_UP):
            ray.kill(entry.actor, no_restart=True)
            if entry.assignment:
                self._count("failed")
            raise final_error(error, what, attempts) from None
        logger.warning("%s failed (attempt %d, %s: %s); %s", what, attempts, type(error).__name__, _first_line(error), decision.value)
        if entry.assignment:
            self.waiting.appendleft(entry.assignment)
            self._count("retried")
        if decision is Decision.RETRY and entry.assignment:
            self.loads[entry.actor] -= 1
        else:
            self._replace(entry.actor, died=isinstance(error, WorkerLost))

    def _replace(self, actor: Any, died: bool) -> None:
        """Start another worker in its place. What else it was doing waits again; where the worker died, that may have been the reason, and counts."""
        ray.kill(actor, no_restart=True)
        self.loads.pop(actor, None)
        for reference in [reference for reference, entry in self.in_flight.items() if entry.actor is actor]:
            assignment = self.in_flight.pop(reference).assignment
            if assignment:
                assignment.attempts += died
                self.waiting.appendleft(assignment)
                self._count("retried")
        self.start_worker()
        if self.monitor:
            self.monitor.add("monosem_worker_restarts_total", 1)

    def _count(self, outcome: str) -> None:
        metric = getattr(self.worker, "TASKS_METRIC", None)
        if self.monitor and metric:
            self.monitor.add(metric, 1, outcome=outcome)

    def _check_clocks(self) -> None:
        now = time.monotonic()
        limit = self.options.task_timeout_seconds
        for reference, entry in list(self.in_flight.items()):
            if reference in self.in_flight and entry.assignment and now - entry.since > limit:
                del self.in_flight[reference]
                self._failed(entry, WorkerLost(f"no answer within {limit:g} s"))
        if self.loads:  # at least one worker has started
            self.without_worker_since = now
        elif self.waiting and now - self.without_worker_since > self.options.start_timeout_seconds:
            raise WorkerError(self._no_room())

    def _no_room(self) -> str:
        options, free = self.options, ray.available_resources()
        return (
            f"no {self.worker.__name__} has started within {options.start_timeout_seconds:g} s: each wants {options.num_cpus:g} CPUs and "
            f"{options.num_gpus:g} GPUs, the cluster has {free.get('CPU', 0):g} and {free.get('GPU', 0):g} free. Ask for less, or add nodes"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _short(task: Any) -> str:
    text = repr(task)
    return text if len(text) <= 80 else f"{text[:77]}..."
