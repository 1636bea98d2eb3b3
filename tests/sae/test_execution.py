"""Tasks that are done in this process: each once, in a known order, by one worker, with the threads that a worker of a cluster has."""

import threading

import pytest
import torch

from sae.errors import InputError, StorageError
from sae.execution import InProcess, PoolOptions, QueueOptions, in_order, ranges, with_progress


class Recorder:
    """A monitor that remembers what it was told."""

    def __init__(self):
        self.told = []

    def add(self, name, amount, **labels):
        self.told.append((name, amount, labels))

    set = add

    def progress(self, stage, done, total):
        self.told.append((stage, done, total))


class Doubling:
    """A worker that notes how often it was built, and with how many threads it computes."""

    TASKS_METRIC = "monosem_shards_total"
    built = 0

    def __init__(self, factor):
        Doubling.built += 1
        self.factor = factor

    def run(self, task):
        return task * self.factor, torch.get_num_threads()


def test_one_worker_does_every_task_in_order_and_its_monitor_is_told():
    monitor, before = Recorder(), Doubling.built
    results = list(InProcess(monitor).run(Doubling, (2,), [3, 1, 2], 8, PoolOptions()))
    assert [(task, doubled) for task, (doubled, _) in results] == [(3, 6), (1, 2), (2, 4)]
    assert Doubling.built == before + 1
    assert monitor.told == [("monosem_shards_total", 1, {"outcome": "committed"})] * 3


def test_without_a_task_no_worker_is_built():
    before = Doubling.built
    assert list(InProcess().run(Doubling, (2,), [], 1, PoolOptions())) == []
    assert Doubling.built == before


@pytest.mark.parametrize("options", [PoolOptions(num_cpus=1.5), QueueOptions(num_cpus=2, queue=3)], ids=["alone", "several at once"])
def test_a_worker_computes_with_its_own_threads_and_leaves_those_of_the_process(options):
    torch.set_num_threads(1)
    threads = {count for _, (_, count) in InProcess().run(Doubling, (2,), range(5), 1, options)}
    assert threads == {2}
    assert torch.get_num_threads() == 1


class Meeting:
    """Tasks that end only once `together` of them have begun; `together` 3 would wait for ever where two are held at once."""

    def __init__(self, together):
        self.barrier = threading.Barrier(together, timeout=20)

    def run(self, task):
        self.barrier.wait()
        return task


def test_a_worker_with_a_queue_holds_several_tasks_at_once():
    found = dict(InProcess().run(Meeting, (2,), list(range(6)), 1, QueueOptions(queue=2)))
    assert found == {task: task for task in range(6)}


class Flaky:
    """Fails with an error some times, then does its task."""

    def __init__(self, error, failures):
        self.error, self.left = error, failures

    def run(self, task):
        if self.left:
            self.left -= 1
            raise self.error
        return task


def test_a_store_that_fails_is_tried_again_as_often_as_is_allowed(monkeypatch):
    monkeypatch.setattr("sae.execution.delay_seconds", lambda attempts: 0.0)
    monitor = Recorder()
    assert list(InProcess(monitor).run(Flaky, (StorageError("no answer"), 2), ["one"], 1, PoolOptions(max_attempts=3))) == [("one", "one")]
    assert [name for name, *_ in monitor.told] == ["monosem_store_errors_total"] * 2
    with pytest.raises(StorageError, match="no answer"):
        list(InProcess().run(Flaky, (StorageError("no answer"), 3), ["one"], 1, PoolOptions(max_attempts=3)))


@pytest.mark.parametrize("error", [InputError("no such text"), ZeroDivisionError("a fault of a worker")])
def test_any_other_error_comes_out_as_itself_at_once(error):
    for options in (PoolOptions(), QueueOptions()):
        with pytest.raises(type(error), match=str(error)):
            list(InProcess().run(Flaky, (error, 1), [1, 2, 3], 1, options))


def test_ranges_cover_everything_once():
    assert ranges(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert ranges(0, 4) == []


def test_results_are_returned_in_the_order_of_their_tasks_and_progress_in_units():
    monitor = Recorder()
    completed = [((4, 6), "b"), ((0, 4), "a")]
    told = with_progress(completed, monitor, "read/tokens", 60, lambda task: 10 * (task[1] - task[0]), "monosem_evaluation_tokens_total")
    assert in_order(told, ranges(6, 4)) == ["a", "b"]
    assert monitor.told == [
        ("read/tokens", 20, 60),
        ("monosem_evaluation_tokens_total", 20, {}),
        ("read/tokens", 60, 60),
        ("monosem_evaluation_tokens_total", 40, {}),
    ]
