"""Harvest and training at the same time: training reads the store while the harvest fills it, and waits where it must.

The batches are those of the finished store, and training starts from statistics of its first batches: the dictionaries are the same bits as
those of one stage after the other. The harvest works through the shards in the order in which the first epoch needs them.

If one side fails the other stops: training asks a small actor whether the harvest still goes on, the harvest asks after each shard whether the
training does.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from sae.corpus.packing import TokenCorpus
from sae.errors import MonosemError, StoppedError, WorkerError
from sae.monitor import Monitor
from sae.storage import Place
from sae.store import MANIFEST_KEY, Store
from sae.store.growing import GrowingStore, expected_rows
from services.ending import stop_requested
from services.training.watch import STOP_SECONDS, UNWATCHED, Pulse

ASK_SECONDS = 1.0
ANSWER_TIMEOUT_SECONDS = 30.0
END_SECONDS = 120.0  # a step of training, and Ray Train's own winding up


class HarvestState:
    """The actor that knows whether the harvest has failed."""

    def __init__(self) -> None:
        self._failure: str | None = None

    def fail(self, reason: str) -> None:
        """Say why there will be no more shards."""
        self._failure = self._failure or reason

    def failure(self) -> str | None:
        """Why there will be no more shards; None while there will."""
        return self._failure


@dataclass(frozen=True)
class Overlap:
    """Settings of a training worker for a store that is still being filled.

    Attributes:
        corpus_url: of the corpus that is harvested.
        state: the `HarvestState` actor.
    """

    corpus_url: str
    state: Any

    @classmethod
    def start(cls, corpus_url: str) -> "Overlap":
        """Start the actor on the connected cluster."""
        return cls(corpus_url, ray.remote(HarvestState).options(num_cpus=0).remote())

    def fail(self, reason: str) -> None:
        """Let training stop at its next batch."""
        self.state.fail.remote(reason)

    def check(self) -> None:
        """Raise if the harvest has failed.

        Raises:
            WorkerError: with the reason.
        """
        try:
            failure = ray.get(self.state.failure.remote(), timeout=ANSWER_TIMEOUT_SECONDS)
        except ray.exceptions.RayError as error:
            failure = f"its job does not answer ({type(error).__name__})"
        if failure:
            raise WorkerError(f"training stopped, since the harvest did: {failure}. Run the same command again, both continue")


def open_store(url: str, overlap: Overlap | None, monitor: Monitor | None, pulse: Pulse = UNWATCHED) -> Store:
    """The store at `url` for training: finished, or still growing."""
    place = Place(url)
    if overlap is None or place.exists(MANIFEST_KEY):
        return Store(place)
    asked = -math.inf

    def check() -> None:
        nonlocal asked
        pulse.moved()
        if pulse.must_stop():
            raise StoppedError("training was stopped while it waited for the harvest")
        if time.monotonic() - asked >= ASK_SECONDS:
            asked = time.monotonic()
            overlap.check()

    def waited(seconds: float) -> None:
        if monitor:
            monitor.add("monosem_train_wait_seconds_total", seconds)

    growing = GrowingStore(place, check=check, waited=waited)
    growing.expect(expected_rows(growing.plan, TokenCorpus(Place(overlap.corpus_url))))
    return growing


def run_together(overlap: Overlap, harvest: Callable[[Callable[[], None]], object], train: Callable[[], object]) -> None:
    """Run both to their end; needs an initialised Ray.

    Args:
        overlap: what the training's workers were given.
        harvest: runs on the calling thread; told a function to call now and then, which raises if the training has failed.
        train: runs on another thread.

    Raises:
        MonosemError: of the side that failed first, as itself.
        KeyboardInterrupt: after both were stopped.
    """
    failures: list[BaseException] = []
    ended = threading.Event()

    def train_to_the_end() -> None:
        try:
            train()
        except BaseException as error:  # noqa: BLE001 - it is raised on the calling thread
            failures.append(error)
        finally:
            ended.set()

    def check() -> None:
        if failures:
            raise failures[0]

    thread = threading.Thread(target=train_to_the_end, name="train", daemon=True)
    thread.start()
    try:
        harvest(check)
        while not ended.wait(ASK_SECONDS):  # short waits: an interrupt is noticed between them
            pass
    except KeyboardInterrupt:
        # The training of a command sees that the command ends, and saves its state. One of a library's user learns it from the harvest.
        if not stop_requested():
            overlap.fail("interrupted")
        ended.wait(STOP_SECONDS if stop_requested() else END_SECONDS)
        raise
    except BaseException as error:
        if error not in failures:
            overlap.fail(str(error) if isinstance(error, MonosemError) else type(error).__name__)
        ended.wait(END_SECONDS)
        raise
    check()
