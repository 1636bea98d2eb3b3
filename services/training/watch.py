"""Watching training workers: they tell an actor that they live and get on, and learn from it that they must stop.

Each worker beats from a thread of its own, which a long step does not hold up. A process that is stopped or gone falls silent; one that waits for
ever, for a dead mount for instance, beats on and gets nowhere. The driver names both. Ray Train itself replaces the workers around a silent one,
after RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S.
"""

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sae.errors import StoppedError
from sae.log import log
from sae.monitor import Monitor
from services.ending import stop_requested

BEAT_SECONDS = 1.0
LOOK_SECONDS = 5.0
SILENT_SECONDS = 15.0
IDLE_SECONDS = 50.0
"""Without a step; a step may well take longer, so this is only said."""
STUCK_SECONDS = 1800.0
"""Without a step until the process ends itself, so that Ray Train starts another: as long as workers in step wait for one another."""
ANSWER_SECONDS = 5.0
STOP_SECONDS = 5.5
"""For a step and its state, after a signal; what is left of `services.ending.LIMIT_SECONDS` is for the rest of the clean-up."""
STUCK_METRIC = "monosem_workers_stuck"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Beat:
    """Heartbeat of a training worker.

    Attributes:
        rank: among the workers.
        host: of its node.
        pid: of its process.
        idle_seconds: since its last step, or since it began.
    """

    rank: int
    host: str
    pid: int
    idle_seconds: float = 0.0

    def __str__(self) -> str:
        return f"training worker {self.rank} (process {self.pid} on {self.host})"


class Board:
    """The actor that workers tell of their life."""

    def __init__(self) -> None:
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._stop = False

    def beat(self, beat: Beat) -> bool:
        """Take a worker's beat; returns whether it must stop."""
        self._beats[beat.rank] = time.monotonic(), beat
        return self._stop

    def leave(self, rank: int) -> None:
        """Forget a worker that is done."""
        self._beats.pop(rank, None)

    def stop(self) -> None:
        """Let every worker stop at its next beat."""
        self._stop = True

    def beats(self) -> list[tuple[float, Beat]]:
        """Seconds since each worker's last beat, and that beat."""
        now = time.monotonic()
        return [(now - at, beat) for at, beat in self._beats.values()]


class TrainingWatch:
    """Handle of the board; it may be sent to workers."""

    def __init__(self, board: Any) -> None:
        self.board = board

    @classmethod
    def start(cls) -> "TrainingWatch":
        """Start the board on the driver's own node, whose end is the end of the training anyway."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return cls(ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote())

    def beats(self) -> list[tuple[float, Beat]]:
        """Seconds since each worker's last beat, and that beat."""
        beats: list[tuple[float, Beat]] = ray.get(self.board.beats.remote(), timeout=ANSWER_SECONDS)
        return beats

    def stop(self) -> bool:
        """Ask all workers to stop; returns whether there are any."""
        self.board.stop.remote()
        with contextlib.suppress(ray.exceptions.RayError):
            return bool(self.beats())
        return False

    def end(self) -> None:
        """End the board."""
        ray.kill(self.board)


class Pulse:
    """The thread of a training worker that beats, for as long as the context is open.

    Args:
        watch: whom it tells; None: nobody.
        rank: of this worker.
    """

    def __init__(self, watch: TrainingWatch | None, rank: int) -> None:
        self._watch, self._rank = watch, rank
        self._moved, self._waiting = time.monotonic(), False
        self._stop, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat_until_over, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        if self._watch is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._watch is not None:
            self._watch.board.leave.remote(self._rank)

    def moved(self) -> None:
        """Note that this worker is getting on, or waits for a harvest as it should."""
        self._moved = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait for others, which may take as long as they train."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
            self.moved()

    def must_stop(self) -> bool:
        """Say whether the driver wants this worker to save its state and end; asked after each step."""
        self.moved()
        return self._stop.is_set()

    def _beat_until_over(self) -> None:
        host, pid = ray.util.get_node_ip_address(), os.getpid()
        while self._watch is not None and not self._over.is_set():
            beat = Beat(self._rank, host, pid, 0.0 if self._waiting else time.monotonic() - self._moved)
            if beat.idle_seconds > STUCK_SECONDS:
                log("worker_gives_up", worker=f"{beat} has made no step for {STUCK_SECONDS:g} s")
                os._exit(1)
            with contextlib.suppress(ray.exceptions.RayError):  # where the driver is gone, Ray ends this process
                if ray.get(self._watch.board.beat.remote(beat), timeout=ANSWER_SECONDS):
                    self._stop.set()
            self._over.wait(BEAT_SECONDS)


UNWATCHED = Pulse(None, 0)


def fit_watched(fit: Callable[[], Result], watch: TrainingWatch, monitor: Monitor | None) -> Result:
    """Return `fit()`, which runs on another thread; name workers that are stuck, and stop all of them before an interrupt goes on its way.

    Ray Train puts a SIGINT handler of its own in place wherever it runs in the main thread. It never takes it away, it swallows the first two
    signals and at the third it ends the process with exit code 0.

    Raises:
        KeyboardInterrupt: in the main thread, after the workers have saved their states, or after `STOP_SECONDS`.
        StoppedError: the same in another thread, to which no signal comes.
    """
    result: concurrent.futures.Future[Result] = concurrent.futures.Future()
    threading.Thread(target=_settle, args=(result, fit), name="ray-train", daemon=True).start()
    in_main, stuck = threading.current_thread() is threading.main_thread(), _Stuck(monitor)
    looked = time.monotonic()
    try:
        while not concurrent.futures.wait([result], timeout=0.25).done:
            if not in_main and stop_requested():
                raise StoppedError("training was stopped")
            if time.monotonic() - looked >= LOOK_SECONDS:
                stuck.look(watch)
                looked = time.monotonic()
    except (KeyboardInterrupt, StoppedError):
        if watch.stop():
            concurrent.futures.wait([result], timeout=STOP_SECONDS)
        raise
    stuck.tell(set())
    return result.result()


def _settle(result: "concurrent.futures.Future[Result]", fit: Callable[[], Result]) -> None:
    try:
        result.set_result(fit())
    except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
        result.set_exception(error)


class _Stuck:
    """Tells of stuck workers in log and metrics, once of each."""

    def __init__(self, monitor: Monitor | None) -> None:
        self.monitor = monitor
        self._told: set[str] = set()

    def look(self, watch: TrainingWatch) -> None:
        try:
            beats = watch.beats()
        except ray.exceptions.RayError:
            return  # the cluster is going away; whoever waits on it reports why
        self.tell({said for seconds, beat in beats if (said := _what_is_wrong(seconds, beat))})

    def tell(self, stuck: set[str]) -> None:
        for each in sorted(stuck - self._told):
            log("worker_stuck", worker=each)
        if self.monitor and stuck != self._told:
            self.monitor.set(STUCK_METRIC, len(stuck), worker="training")
        self._told = stuck


def _what_is_wrong(seconds: float, beat: Beat) -> str | None:
    if seconds > SILENT_SECONDS:
        return f"{beat} has given no sign of life for more than {SILENT_SECONDS:g} s"
    return f"{beat} has made no step for more than {IDLE_SECONDS:g} s" if beat.idle_seconds > IDLE_SECONDS else None
