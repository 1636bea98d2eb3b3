"""Two stages at once: each stops when the other fails, and the caller gets the error of the one that failed first."""

import os
import signal
import threading
import time

import pytest
import ray

from jobs.config import RunConfig
from jobs.overlap import harvest_workers_beside_training
from sae.errors import ConfigError, DivergenceError, WorkerError
from services.training.options import worker_count
from services.training.overlap import Overlap, run_together
from services.training.resources import reserved_cpus

pytestmark = pytest.mark.ray


@pytest.fixture
def overlap(ray_cluster):
    overlap = Overlap.start("corpus")
    yield overlap
    ray.kill(overlap.state)


def wait_for_batches(overlap: Overlap, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        overlap.check()
        time.sleep(0.05)


def test_both_run_at_the_same_time_to_their_end(overlap):
    trained, harvested = threading.Event(), threading.Event()
    run_together(overlap, lambda check: (harvested.set(), trained.wait(10)), lambda: (trained.set(), harvested.wait(10)))
    assert trained.is_set()
    assert harvested.is_set()
    overlap.check()


def test_training_stops_with_the_harvests_error(overlap):
    stopped = []

    def harvest(check) -> None:
        time.sleep(0.2)
        raise ConfigError("the store cannot hold 1e9")

    def train() -> None:
        try:
            wait_for_batches(overlap)
        except WorkerError as error:
            stopped.append(str(error))
            raise

    with pytest.raises(ConfigError, match="cannot hold 1e9"):
        run_together(overlap, harvest, train)
    assert stopped == ["training stopped, since the harvest did: the store cannot hold 1e9. Run the same command again, both continue"]


def test_the_harvest_stops_with_the_trainings_error(overlap):
    shards = []

    def harvest(check) -> None:
        for shard in range(1000):
            time.sleep(0.02)
            check()
            shards.append(shard)

    def train() -> None:
        raise DivergenceError("loss is NaN")

    with pytest.raises(DivergenceError, match="loss is NaN"):
        run_together(overlap, harvest, train)
    assert len(shards) < 1000


@pytest.mark.parametrize("moment", ["while both work", "while training goes on alone"])
def test_an_interrupt_stops_both(overlap, moment):
    stopped = []

    def harvest(check) -> None:
        if moment == "while both work":
            raise KeyboardInterrupt
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    def train() -> None:
        try:
            wait_for_batches(overlap)
        except WorkerError:
            stopped.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        run_together(overlap, harvest, train)
    assert stopped


def config(**sections) -> RunConfig:
    return RunConfig.parse({"output": "run", **sections})


def test_both_get_processors_of_a_machine_with_two(ray_cluster):
    assert harvest_workers_beside_training(config(harvest={"num_workers": 2})) == 1
    two = config(trainer={"num_workers": 2})
    assert worker_count(two.training, two.trainer) == 2
    assert reserved_cpus(two.trainer, 2, overlapped=True) == 0.5
    assert reserved_cpus(two.trainer, 2, overlapped=False) == 1.0
    assert harvest_workers_beside_training(two) == 1
    assert harvest_workers_beside_training(config(harvest={"num_workers": 8, "pool": {"num_cpus": 0.25}})) == 4


def test_a_cluster_that_cannot_hold_both_is_known_beforehand(ray_cluster):
    assert harvest_workers_beside_training(config(trainer={"num_cpus": 2})) == 0
    assert harvest_workers_beside_training(config(harvest={"pool": {"num_cpus": 2}})) == 0
    assert harvest_workers_beside_training(config(harvest={"pool": {"num_gpus": 1}})) == 0
