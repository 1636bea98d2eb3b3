"""A pool of actors finishes its tasks whatever happens to the actors."""

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from ray import cloudpickle

from sae.errors import HookpointError, StorageError, WorkerError
from sae.execution import PoolOptions, QueueOptions
from services.pool import watch as pool_watch
from services.pool.actors import WORKER_ENVIRONMENT
from services.pool.ray_pool import run_pool

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker process cannot import the tests
pytestmark = pytest.mark.ray
SMALL = PoolOptions(num_cpus=0.25, max_attempts=3)


class Squarer:
    """Squares numbers; misbehaves at the numbers it is told to, as often as told. Attempts are counted in files."""

    TASKS_METRIC = "tasks"

    def __init__(self, directory: str, misbehaviour: dict[int, tuple[str, int]]) -> None:
        self.directory, self.misbehaviour = Path(directory), misbehaviour

    def run(self, task: int) -> int:
        attempt = len(list(self.directory.glob(f"{task}.*")))
        (self.directory / f"{task}.{attempt}.{os.getpid()}").touch()
        kind, times = self.misbehaviour.get(task, ("", 0))
        if attempt < times:
            misbehave(kind)
        return task * task


def misbehave(kind: str) -> None:
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "import":
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")
    raise {"user": HookpointError("no hookpoint 'x'"), "storage": StorageError("503"), "bug": KeyError("bug")}[kind]


class Overlapping:
    """Says how many of its tasks ran at the same time; dies once, in the task it is told."""

    TASKS_METRIC = "tasks"

    def __init__(self, directory: str, deadly: int) -> None:
        self.directory, self.deadly = Path(directory), deadly
        self.running, self.most, self.lock = 0, 0, threading.Lock()

    def run(self, task: int) -> tuple[int, int]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.2)
        marker = self.directory / "died"
        if task == self.deadly and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.lock:
            self.running -= 1
        return os.getpid(), self.most


class Unstartable:
    """Cannot be built."""

    def __init__(self) -> None:
        raise HookpointError("no hookpoint 'y'")

    def run(self, task: int) -> int:
        return task


class Environment:
    """Says what its process was started with."""

    def run(self, task: str) -> str | None:
        return os.environ.get(task)


class Restarts:
    """A monitor that remembers."""

    def __init__(self) -> None:
        self.total = self.store_errors = 0.0
        self.outcomes: Counter[str] = Counter()
        self.stuck: list[float] = []

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        assert (metric, labels) == ("monosem_workers_stuck", {"worker": "Squarer"})
        self.stuck.append(value)

    def add(self, metric: str, amount: float, /, **labels: str) -> None:
        if metric == "tasks":
            self.outcomes[labels["outcome"]] += int(amount)
        elif metric == "monosem_store_errors_total":
            self.store_errors += amount
        else:
            assert metric == "monosem_worker_restarts_total"
            self.total += amount


def attempts(directory: Path, task: int) -> int:
    return len(list(directory.glob(f"{task}.*")))


def test_each_task_is_answered_once_and_the_actors_are_gone_afterwards(ray_cluster, tmp_path):
    results = list(run_pool(Squarer, (str(tmp_path), {}), list(range(9)), 2, SMALL))
    assert sorted(results) == [(number, number * number) for number in range(9)]
    pids = {path.name.split(".")[2] for path in tmp_path.iterdir()}
    assert len(pids) <= 2
    deadline = time.monotonic() + 10
    while any(Path("/proc", pid).exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path("/proc", pid).exists() for pid in pids)


def test_no_task_starts_no_worker(ray_cluster):
    assert list(run_pool(Unstartable, (), [], 2, SMALL)) == []


def test_a_killed_worker_is_replaced_and_its_task_done_again(ray_cluster, tmp_path):
    restarts = Restarts()
    results = list(run_pool(Squarer, (str(tmp_path), {2: ("die", 1)}), [1, 2, 3, 4], 2, SMALL, restarts))
    assert sorted(results) == [(1, 1), (2, 4), (3, 9), (4, 16)]
    assert attempts(tmp_path, 2) == 2
    assert restarts.total == 1


def test_a_worker_may_hold_several_tasks_and_those_it_dies_with_are_done_again(ray_cluster, tmp_path):
    restarts, options = Restarts(), QueueOptions(num_cpus=0.25, queue=2)
    results = dict(run_pool(Overlapping, (str(tmp_path), 3), list(range(8)), 1, options, restarts))
    assert sorted(results) == list(range(8))
    assert len({pid for pid, _ in results.values()}) == 2
    assert max(most for _, most in results.values()) == 2
    assert restarts.total == 1
    assert restarts.outcomes["committed"] == 8
    assert 1 <= restarts.outcomes["retried"] <= 2  # the deadly task, and what lay in the queue beside it
    assert restarts.outcomes["failed"] == 0


def test_a_worker_that_does_not_answer_is_replaced(ray_cluster, tmp_path):
    options = PoolOptions(num_cpus=0.25, task_timeout_seconds=2)
    assert list(run_pool(Squarer, (str(tmp_path), {5: ("hang", 1)}), [5], 1, options)) == [(5, 25)]


def test_a_stopped_process_is_named_and_replaced_long_before_its_tasks_time_limit(ray_cluster, tmp_path, monkeypatch, caplog):
    """As by SIGSTOP, a node that is cut off, or a file system that holds the whole process."""
    monkeypatch.setattr(pool_watch, "PING_SECONDS", 0.2)
    monkeypatch.setattr(pool_watch, "NAMED_SECONDS", 1.0)
    monkeypatch.setattr(pool_watch, "REPLACED_SECONDS", 2.0)
    monkeypatch.setattr(logging.getLogger("monosem"), "propagate", True)
    caplog.set_level(logging.INFO, "monosem")
    told = Restarts()
    assert sorted(run_pool(Squarer, (str(tmp_path), {5: ("stop", 1)}), [4, 5], 1, SMALL, told)) == [(4, 16), (5, 25)]
    stopped = (tmp_path.glob("5.0.*").__next__()).name.split(".")[2]
    assert f"Squarer (process {stopped} on " in caplog.text
    assert "does not answer" in caplog.text
    assert told.total == 1
    assert told.stuck == [1, 0]


def test_a_worker_that_lacks_a_module_says_so_at_once_and_once(ray_cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("class Worker:\n    def run(self, task): return task\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    with pytest.raises(WorkerError, match=r"the start of a Worker cannot run where it was started: No module named 'only_here'.*Install"):
        list(run_pool(only_here.Worker, (), [1, 2], 2, SMALL))
    with pytest.raises(WorkerError, match=r"task 3 of Squarer cannot run where it was started: No module named 'nowhere'"):
        list(run_pool(Squarer, (str(tmp_path), {3: ("import", 9)}), [3], 1, SMALL))
    assert attempts(tmp_path, 3) == 1


def test_a_storage_error_is_tried_again_by_the_same_worker(ray_cluster, tmp_path):
    told = Restarts()
    assert list(run_pool(Squarer, (str(tmp_path), {3: ("storage", 1)}), [3], 1, SMALL, told)) == [(3, 9)]
    assert (told.total, told.store_errors, told.outcomes) == (0, 1, {"retried": 1, "committed": 1})
    assert len({path.name.split(".")[2] for path in tmp_path.iterdir()}) == 1


def test_a_users_mistake_is_raised_at_once_as_itself(ray_cluster, tmp_path):
    with pytest.raises(HookpointError, match=r"^no hookpoint 'x'$") as caught:
        list(run_pool(Squarer, (str(tmp_path), {3: ("user", 9)}), [3], 1, SMALL))
    assert type(caught.value) is HookpointError
    assert attempts(tmp_path, 3) == 1
    with pytest.raises(HookpointError, match=r"^no hookpoint 'y'$"):
        list(run_pool(Unstartable, (), [1, 2], 2, SMALL))


@pytest.mark.parametrize(
    ("kind", "expected", "message"), [("bug", WorkerError, "task 3 of Squarer failed 2 times"), ("storage", StorageError, "^503$")]
)
def test_a_task_that_uses_up_its_attempts_ends_the_pool(ray_cluster, tmp_path, kind, expected, message):
    told = Restarts()
    with pytest.raises(expected, match=message):
        list(run_pool(Squarer, (str(tmp_path), {3: (kind, 9)}), [3], 1, PoolOptions(num_cpus=0.25, max_attempts=2), told))
    assert told.outcomes == {"retried": 1, "failed": 1}
    assert told.store_errors == (2 if kind == "storage" else 0)
    assert attempts(tmp_path, 3) == 2


def test_workers_without_room_hold_nothing_up(ray_cluster, tmp_path):
    options = PoolOptions(num_cpus=2)  # the cluster has two CPUs: the second worker can never start beside the first
    assert sorted(list(run_pool(Squarer, (str(tmp_path), {}), [1, 2, 3], 2, options))) == [(1, 1), (2, 4), (3, 9)]


def test_a_cluster_that_is_too_small_is_an_error_that_says_so(ray_cluster, tmp_path):
    options = PoolOptions(num_cpus=64, start_timeout_seconds=1)
    with pytest.raises(WorkerError, match="each wants 64 CPUs and 0 GPUs"):
        list(run_pool(Squarer, (str(tmp_path), {}), [1], 1, options))


def test_closing_the_iterator_early_ends_the_work(ray_cluster, tmp_path):
    running = run_pool(Squarer, (str(tmp_path), {}), list(range(100)), 1, SMALL)
    next(running)
    running.close()
    time.sleep(0.3)
    done = len(list(tmp_path.iterdir()))
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == done < 100


def test_workers_run_with_an_allocator_that_keeps_its_memory_and_threads_by_their_cpus(ray_cluster):
    names = [*WORKER_ENVIRONMENT, "OMP_NUM_THREADS"]
    found = dict(run_pool(Environment, (), names, 1, PoolOptions(num_cpus=1.5)))
    assert found == {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "2"}
