"""A pool of Ray actors that works through a list of tasks, whatever happens to the actors.

A worker is a plain class: its constructor does what is slow (load a model, open a corpus), `run(task)` does one task and returns
something small. It must be safe to run a task twice: a worker that dies after its work and before its answer leaves no trace of having
finished.

A worker may hold several tasks at once (`queue`): its `run` is then called from as many threads, and divides its work as it likes, for
instance computing for one task while another one's result is being written. A task is done when its `run` has returned, not before.

Tasks go only to workers that have started. A worker that waits for room on the cluster therefore holds nothing up: the others
do the work, and it joins when there is room.

What the pool does for a task does not grow with the number of workers or of tasks; what it holds is a few hundred bytes for each.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sae.errors import StorageError, WorkerError
from sae.execution import PoolOptions
from sae.failure import Decision, WorkerLost, decide, delay_seconds, final_error
from sae.monitor import SILENT, Monitor
from services.pool.actors import Actors, Answer, RayActors
from services.pool.watch import REPLACED_SECONDS, PoolWatch, Work, shortened

LOOK_SECONDS = 1.0  # how often the clocks are looked at: a stuck task is noticed this much later

Task = TypeVar("Task")
logger = logging.getLogger(__name__)


def run_pool(
    worker: type,
    arguments: tuple[Any, ...],
    tasks: Sequence[Task],
    num_workers: int,
    options: PoolOptions | None = None,
    monitor: Monitor | None = None,
    actors: Actors | None = None,
) -> Iterator[tuple[Task, Any]]:
    """Yield `(task, worker.run(task))` for every task, in the order of completion.

    Needs an initialised Ray, unless `actors` are given. At most one task per worker is in flight, or `queue` of them with QueueOptions. When the
    iterator ends, is closed or raises, its own actors are killed and nothing else is.

    Args:
        worker: a plain class with `run(task)`; built as `worker(*arguments)` in its own process. A class attribute `TASKS_METRIC` names a
            counter of its tasks by `outcome` (committed, retried, failed).
        arguments: small values such as configs and URLs; they travel to every worker.
        tasks: small values; each is done exactly once as far as the caller sees.
        num_workers: actors, at most; never more than tasks.
        options: resources, attempts and timeouts.
        monitor: told of replaced workers (`monosem_worker_restarts_total`) and of a store that failed (`monosem_store_errors_total`).
        actors: where the workers run; null takes the connected Ray cluster.

    Raises:
        UserError: raised by a worker, at once and as itself.
        FailureError: our own error of a task that used up its attempts.
        WorkerError: any other error of such a task; or no worker could start.
    """
    options = options or PoolOptions()
    actors = actors or RayActors(options.num_cpus, options.num_gpus, options.labels, options.tasks_at_once)
    pool = _Pool(worker, arguments, tasks, options, monitor, actors)
    try:
        for _ in range(min(num_workers, len(tasks))):
            pool.start_worker()
        while pool.waiting or pool.running:
            pool.dispatch()
            finished = pool.collect()
            pool.dispatch()  # before the caller takes its time over the results
            yield from finished
    finally:
        pool.shut_down()


class RayPool:
    """The executor that does tasks on a pool of actors of the connected Ray cluster; see `run_pool`.

    Args:
        monitor: told of what is done; it can be sent to other processes.
    """

    def __init__(self, monitor: Monitor = SILENT) -> None:
        self.monitor = monitor

    def run(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Task], num_workers: int, options: PoolOptions
    ) -> Iterator[tuple[Task, Any]]:
        """Yield `(task, worker(*arguments).run(task))` for every task, in the order of completion."""
        return run_pool(worker, arguments, tasks, num_workers, options, self.monitor)


@dataclass(eq=False)
class _Assignment:
    """A task and how often it was tried."""

    task: Any
    attempts: int = 0


@dataclass(frozen=True)
class _InFlight:
    """Meaning of a request: a worker's start (no assignment) or its task."""

    actor: Any
    assignment: _Assignment | None
    since: float
    """When it was asked for; a task that waits in its worker's queue is not yet running, but its time counts."""


class _Started:
    """The workers that have started, and which tasks each holds; all its questions are answered without looking at every worker."""

    def __init__(self, queue: int) -> None:
        self._requests: dict[Any, set[int]] = {}
        self._by_load: list[dict[Any, None]] = [{} for _ in range(queue + 1)]

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._requests)

    def add(self, actor: Any) -> None:
        self._requests[actor] = set()
        self._by_load[0][actor] = None

    def remove(self, actor: Any) -> set[int]:
        """Forget a worker; returns the requests it held."""
        requests = self._requests.pop(actor, set())
        self._by_load[len(requests)].pop(actor, None)
        return requests

    def least_loaded(self) -> Any | None:
        """A worker that can take a task and holds the fewest; None where all are full."""
        return next((next(reversed(actors)) for actors in self._by_load[:-1] if actors), None)

    def take(self, actor: Any, request: int) -> None:
        self._move(actor, lambda requests: requests.add(request))

    def release(self, actor: Any, request: int) -> None:
        if actor in self._requests:
            self._move(actor, lambda requests: requests.discard(request))

    def _move(self, actor: Any, change: Callable[[set[int]], None]) -> None:
        requests = self._requests[actor]
        del self._by_load[len(requests)][actor]
        change(requests)
        self._by_load[len(requests)][actor] = None


class _Pool:
    def __init__(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Any], options: PoolOptions, monitor: Monitor | None, actors: Actors
    ) -> None:
        self.worker, self.arguments, self.options, self.monitor, self.actors = worker, arguments, options, monitor, actors
        self.waiting = deque(_Assignment(task) for task in tasks)
        self.starting: dict[int, _InFlight] = {}
        self.running: dict[int, _InFlight] = {}
        self.started = _Started(options.tasks_at_once)
        self.start_failures = 0  # since a worker last started
        self.watch = PoolWatch(actors, worker.__name__, monitor, compares=len(tasks) > 1)
        self.looked = self.without_worker_since = actors.now()

    def start_worker(self) -> None:
        actor, request = self.actors.start(self.worker, self.arguments, delay_seconds(self.start_failures))
        self.starting[request] = _InFlight(actor, None, self.actors.now())

    def dispatch(self) -> None:
        while self.waiting and (actor := self.started.least_loaded()) is not None:
            assignment = self.waiting.popleft()
            request = self.actors.run(actor, assignment.task, delay_seconds(assignment.attempts))
            self.started.take(actor, request)
            self.running[request] = _InFlight(actor, assignment, self.actors.now())

    def collect(self) -> list[tuple[Any, Any]]:
        results = []
        answers = self.actors.wait(LOOK_SECONDS)
        for answer in sorted(answers, key=lambda answer: answer.error is not None):  # a worker's successes before its death
            if (started := self.starting.pop(answer.request, None)) is not None:
                self._has_started(started, answer)
            elif (entry := self.running.pop(answer.request, None)) is not None:
                self.started.release(entry.actor, answer.request)
                self.watch.took(self.actors.now() - entry.since)
                if answer.error is not None:
                    self._failed(entry, answer.error)
                elif entry.assignment is not None:
                    self._count("committed")
                    results.append((entry.assignment.task, answer.result))
            else:
                self.watch.answered(answer.request)  # or it is the late answer of a worker that was given up
        self._check_clocks()
        return results

    def shut_down(self) -> None:
        self.actors.shut_down({*self.started, *(entry.actor for entry in self.starting.values())})

    def _has_started(self, entry: _InFlight, answer: Answer) -> None:
        if answer.error is not None:
            self._failed(entry, answer.error)
            return
        self.start_failures = 0
        self.started.add(entry.actor)
        self.watch.has_started(entry.actor, answer.result)

    def _failed(self, entry: _InFlight, error: Exception) -> None:
        if entry.assignment:
            what = f"task {shortened(entry.assignment.task)} of {self.worker.__name__}"
            attempts = entry.assignment.attempts = entry.assignment.attempts + 1
        else:
            what = f"the start of a {self.worker.__name__}"
            attempts = self.start_failures = self.start_failures + 1
        if self.monitor and isinstance(error, StorageError):
            self.monitor.add("monosem_store_errors_total", 1)
        decision = decide(error, attempts, self.options.max_attempts)
        if decision in (Decision.RAISE, Decision.GIVE_UP):
            self.actors.kill(entry.actor)
            if entry.assignment:
                self._count("failed")
            raise final_error(error, what, attempts) from None
        logger.warning("%s failed (attempt %d, %s: %s); %s", what, attempts, type(error).__name__, _first_line(error), decision.value)
        if entry.assignment:
            self.waiting.appendleft(entry.assignment)
            self._count("retried")
        if decision is Decision.REPLACE or entry.assignment is None:
            self._replace(entry.actor, died=isinstance(error, WorkerLost))

    def _lost(self, actor: Any, how: str) -> None:
        """Give a worker up, with its oldest task as the one that failed; without a task, another worker takes its place all the same."""
        request, entry = next(((request, entry) for request, entry in self.running.items() if entry.actor is actor), (None, None))
        if request is None or entry is None:
            if actor in self.started:
                self._replace(actor, died=True)
            return
        del self.running[request]
        self.started.release(actor, request)
        self._failed(entry, WorkerLost(how))

    def _replace(self, actor: Any, died: bool) -> None:
        """Start another worker in its place. What else it was doing waits again; where the worker died, that may have been the reason, and counts."""
        self.actors.kill(actor)
        self.watch.forget(actor)
        for request in sorted(self.started.remove(actor)):
            assignment = self.running.pop(request).assignment
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
        now = self.actors.now()
        if now - self.looked < LOOK_SECONDS:  # it takes a look at every task
            return
        self.looked = now
        work = (Work(entry.actor, entry.assignment.task, entry.since) for entry in self.running.values() if entry.assignment)
        for actor in self.watch.look(now, work):
            self._lost(actor, f"its process has not answered for {REPLACED_SECONDS:g} s")
        limit = self.options.task_timeout_seconds
        for entry in [entry for entry in self.running.values() if now - entry.since > limit]:
            self._lost(entry.actor, f"no answer within {limit:g} s")
        if self.started:
            self.without_worker_since = now
        elif self.waiting:
            seconds = now - self.without_worker_since
            if seconds > self.options.start_timeout_seconds:
                raise WorkerError(f"{self._no_room(seconds)}. Ask for less, or add nodes")
            self.watch.no_worker(seconds, lambda: self._no_room(seconds))

    def _no_room(self, seconds: float) -> str:
        options = self.options
        labels = f" on a node labelled {', '.join(f'{key}={value}' for key, value in options.labels.items())}" if options.labels else ""
        return (
            f"no {self.worker.__name__} has started within {seconds:.0f} s: each wants {options.num_cpus:g} CPUs and "
            f"{options.num_gpus:g} GPUs{labels}, {self.actors.room()}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
