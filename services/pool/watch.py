"""Detection of stuck workers of a pool: named in log and metrics within a minute, long before a task's own time limit.

A process that does not answer pings is stopped or cut off: the pool replaces it. One that answers while a task takes far longer than any before
it may hang, on a dead mount for instance, or may just be slow: it is only named. No clock and no Ray here; the pool calls `look` now and then.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sae.log import log
from sae.monitor import Monitor
from services.pool.actors import Actors

PING_SECONDS = 10.0
NAMED_SECONDS = 20.0
"""Without an answer to a ping until the worker is named."""
REPLACED_SECONDS = 45.0
"""Without an answer until it is replaced."""
SLOW_SECONDS = 50.0
SLOW_FACTOR = 5.0
"""A task is named once it takes so many times as long as the longest so far, and `SLOW_SECONDS`."""
STUCK_METRIC = "monosem_workers_stuck"


@dataclass(frozen=True)
class Work:
    """A task under way.

    Attributes:
        actor: who does it.
        task: what it does.
        since: when it was asked for, on the cluster's clock.
    """

    actor: Any
    task: Any
    since: float


class PoolWatch:
    """Pings the workers of a pool, and tells of those that are stuck.

    Args:
        actors: the cluster.
        kind: of the workers.
        monitor: told how many are stuck.
        compares: whether there are several tasks. A single one (to train a model) may take any time.
    """

    def __init__(self, actors: Actors, kind: str, monitor: Monitor | None, compares: bool = True) -> None:
        self.actors, self.kind, self.monitor, self.compares = actors, kind, monitor, compares
        self._names: dict[Any, str] = {}
        self._asked: dict[int, tuple[Any, float]] = {}
        self._pinged = self._longest = 0.0
        self._told: set[str] = set()
        self._told_of_none = False

    def has_started(self, actor: Any, name: str | None) -> None:
        """Watch a worker from now on."""
        self._names[actor] = name or f"a {self.kind}"

    def forget(self, actor: Any) -> None:
        """Watch a worker no longer."""
        self._names.pop(actor, None)
        self._asked = {request: asked for request, asked in self._asked.items() if asked[0] is not actor}

    def answered(self, request: int) -> bool:
        """Take the answer to a ping; False where the request was none."""
        return self._asked.pop(request, None) is not None

    def took(self, seconds: float) -> None:
        """Note how long a task took."""
        self._longest = max(self._longest, seconds)

    def look(self, now: float, running: Iterable[Work]) -> list[Any]:
        """Ping the workers, and tell of those that are stuck.

        Args:
            now: seconds on the cluster's clock.
            running: tasks under way.

        Returns:
            The workers whose processes have not answered for `REPLACED_SECONDS`.
        """
        silent = {actor: now - since for actor, since in self._asked.values()}
        named = [self._names[actor] for actor, seconds in silent.items() if seconds > NAMED_SECONDS]
        stuck = {f"{name} does not answer: its process is stopped, or its node is cut off" for name in named}
        self._tell(stuck | {self._slow(work) for work in running if self._is_slow(work, now) and silent.get(work.actor, 0.0) <= NAMED_SECONDS})
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            for actor in self._names.keys() - silent.keys():
                self._asked[self.actors.ping(actor)] = actor, now
        return [actor for actor, seconds in silent.items() if seconds > REPLACED_SECONDS]

    def no_worker(self, seconds: float, why: Callable[[], str]) -> None:
        """Tell once that no worker has started for so long."""
        if seconds > SLOW_SECONDS and not self._told_of_none:
            self._told_of_none = True
            log("no_worker", reason=why())

    def _is_slow(self, work: Work, now: float) -> bool:
        return self.compares and now - work.since > max(SLOW_SECONDS, SLOW_FACTOR * self._longest)

    def _slow(self, work: Work) -> str:
        name = self._names.get(work.actor, self.kind)
        return f"{name} takes unusually long for {shortened(work.task)}: it is slow, or hangs in a native call or on a file"

    def _tell(self, stuck: set[str]) -> None:
        for each in sorted(stuck - self._told):
            log("worker_stuck", worker=each)
        if self.monitor and len(stuck) != len(self._told):
            self.monitor.set(STUCK_METRIC, len(stuck), worker=self.kind)
        self._told = stuck


def shortened(task: Any) -> str:
    """A task in a message."""
    text = repr(task)
    return text if len(text) <= 80 else f"{text[:77]}..."
