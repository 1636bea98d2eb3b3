"""The pool and the harvest's driver on a simulated cluster: what they decide, and that their work for a task does not grow with the cluster."""

import sys
from collections import Counter

import pytest

from sae.store.manifest import finish_store
from tests.simulated_cluster import Conditions, harvest_plan, simulate_harvest, simulated_store

ROUGH = Conditions(lifetime=200.0, hiccups=0.02, seed=1)


class Told:
    """A monitor that counts."""

    def __init__(self):
        self.counters = Counter()

    def add(self, metric, amount, /, **labels):
        self.counters[" ".join([metric, *labels.values()])] += amount

    def set(self, metric, value, /, **labels):
        pass

    def progress(self, stage, done, total, /):
        self.done = done, total


@pytest.fixture
def plan():
    return harvest_plan(tokens=600 * 16 * 8, d_in=4, context_length=8, sequences_per_shard=16)


def test_a_rough_harvest_ends_in_the_manifest_of_a_smooth_one(plan):
    smooth, _ = simulate_harvest(simulated_store(plan, "smooth"), plan, 40, Conditions(lifetime=1e12, hiccups=0))
    told = Told()
    rough, cluster = simulate_harvest(simulated_store(plan, "rough"), plan, 40, ROUGH, told)
    assert cluster.deaths > 5
    assert cluster.hiccups > 5
    assert rough == smooth
    assert told.done == (600 * 16 * 8, 600 * 16 * 8)
    counted = told.counters
    assert counted["monosem_shards_total committed"] == 600
    assert counted["monosem_harvest_tokens_total"] == 600 * 16 * 8
    assert 5 < counted["monosem_worker_restarts_total"] <= cluster.deaths  # one that dies with nothing left to do is not missed
    assert counted["monosem_store_errors_total"] == cluster.hiccups
    assert counted["monosem_shards_total retried"] > cluster.hiccups
    assert counted["monosem_shards_total failed"] == 0


def test_the_cluster_is_kept_busy_and_is_given_back(plan):
    _, cluster = simulate_harvest(simulated_store(plan, "busy"), plan, 40, ROUGH)
    assert cluster.most == 40
    assert cluster.living == 0
    computing = 600 * ROUGH.compute / 40
    assert cluster.clock < ROUGH.start * 2 + 2 * computing + ROUGH.start * 3


def test_a_harvest_that_is_simulated_again_goes_the_same_way(plan):
    runs = [simulate_harvest(simulated_store(plan, f"again-{turn}"), plan, 10, ROUGH)[1] for turn in range(2)]
    assert runs[0].clock == runs[1].clock
    assert runs[0].requests == runs[1].requests


def steps_per_task(num_workers: int) -> float:
    """Lines of the pool's own code that are executed for each of its tasks; every worker does as many."""
    plan = harvest_plan(tokens=num_workers * 12 * 8, d_in=1, context_length=8, sequences_per_shard=1)
    place, lines = simulated_store(plan, f"steps-{num_workers}"), 0

    def count(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.endswith(("services/pool/ray_pool.py", "sae/store/harvest.py")):
            return None
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        simulate_harvest(place, plan, num_workers, Conditions(lifetime=2000.0))
    finally:
        sys.settrace(before)
    assert finish_store(place, plan).statistics
    return lines / plan.num_shards


def test_the_work_for_a_task_does_not_grow_with_the_cluster():
    # Workers look at the clocks of all tasks once a second, and each second a worker does its share: that, too, is constant for each task.
    few, many = steps_per_task(25), steps_per_task(200)
    assert many < 1.3 * few
