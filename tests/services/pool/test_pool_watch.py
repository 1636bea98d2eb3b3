"""Stuck workers of a pool are named, and only processes that do not answer are replaced; a function of looks and times."""

import pytest

from services.pool import watch as pool_watch
from services.pool.watch import PING_SECONDS, REPLACED_SECONDS, SLOW_SECONDS, PoolWatch, Work


class Cluster:
    """Takes pings, and answers none by itself."""

    def __init__(self):
        self.pinged = []

    def ping(self, actor):
        self.pinged.append(actor)
        return len(self.pinged) - 1


class Gauge:
    """A monitor that remembers the last value."""

    def set(self, metric, value, /, **labels):
        assert (metric, labels) == ("monosem_workers_stuck", {"worker": "Harvester"})
        self.value = value


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(pool_watch, "log", lambda event, **fields: lines.append((event, *fields.values())))
    return lines


@pytest.fixture
def watch():
    watch = PoolWatch(Cluster(), "Harvester", Gauge())
    for actor in ("a", "b"):
        watch.has_started(actor, f"Harvester {actor}")
    return watch


def test_workers_that_answer_are_asked_now_and_then_and_never_named(watch, said):
    for second in range(0, 3600):
        assert watch.look(second, [Work("a", 1, second - 40), Work("b", 2, second - 30)]) == []
        for request in range(len(watch.actors.pinged)):
            watch.answered(request)
    assert said == []
    assert len(watch.actors.pinged) == pytest.approx(2 * 3600 / PING_SECONDS, rel=0.05)


def test_a_process_that_does_not_answer_is_named_first_and_then_given_up(watch, said):
    """Within a minute, whatever its task's own time limit is."""
    given_up = {}
    for second in range(10, 70):
        for actor in watch.look(second, []):
            given_up.setdefault(actor, second)
        for request, actor in enumerate(watch.actors.pinged):
            if actor == "b":
                watch.answered(request)
    assert given_up == {"a": 10 + REPLACED_SECONDS + 1}
    assert said == [("worker_stuck", "Harvester a does not answer: its process is stopped, or its node is cut off")]
    assert watch.monitor.value == 1
    watch.forget("a")
    assert watch.look(71, []) == []
    assert watch.monitor.value == 0


def test_a_task_that_takes_far_longer_than_any_before_is_named_and_left_alone(watch, said):
    watch.took(2.0)
    for second in range(0, 600):
        assert watch.look(second, [Work("b", "shard 7", 0.0)]) == []
        for request in range(len(watch.actors.pinged)):
            watch.answered(request)
        assert bool(said) == (second > SLOW_SECONDS)
    assert len(said) == 1
    assert said[0][1].startswith("Harvester b takes unusually long for 'shard 7'")


def test_long_tasks_among_long_tasks_are_not_named(watch, said):
    watch.took(300.0)
    watch.look(1000, [Work("a", 1, 0.0)])
    assert said == []


def test_a_single_task_may_take_any_time(said):
    watch = PoolWatch(Cluster(), "Trainer", None, compares=False)
    watch.has_started("a", None)
    watch.look(86_400, [Work("a", 1, 0.0)])
    assert said == []


def test_a_pool_in_which_no_worker_starts_says_so_once(watch, said):
    for seconds in (10.0, 49.0, 51.0, 300.0):
        watch.no_worker(seconds, lambda: "each wants 64 CPUs")
    assert said == [("no_worker", "each wants 64 CPUs")]
