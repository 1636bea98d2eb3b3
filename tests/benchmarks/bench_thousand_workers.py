"""A harvest of 8.2 billion tokens on 1,000 workers, simulated: what the driver itself takes, from the first shard to the manifest.

The driver, its pool, lease, receipts and manifest are the real ones; workers, their deaths and store are simulated (`tests/simulated_cluster.py`),
and so is time. What the simulation takes is not counted, apart from making the receipts' bytes. `pool_per_shard` compares the pool's seconds for each
shard with those of a hundredth of the cluster: 1 is linear.
"""

import logging
import resource
import time

from tests.benchmarks.harness import Bar, Measurement
from tests.simulated_cluster import Conditions, harvest_plan, simulate_harvest, simulated_store

TOKENS = 8_200_000_000
WORKERS = 1_000
CONDITIONS = Conditions(lifetime=3600.0)


def measure() -> Measurement:
    logging.disable(logging.WARNING)  # a line for each of a few hundred deaths
    small = run(TOKENS // 100, WORKERS // 100)
    before = peak_bytes()
    large = run(TOKENS, WORKERS)
    ratios = {
        "pool_per_shard": large["pool_seconds_per_shard"] / small["pool_seconds_per_shard"],
        "driver_gib": (peak_bytes() - before) / 2**30,
        "pool_share_of_a_core": large["pool_seconds"] / large["simulated_seconds"],
    }
    bars = {"pool_per_shard": Bar("<=", 2.0), "driver_gib": Bar("<=", 1.0), "pool_share_of_a_core": Bar("<=", 0.2)}
    return Measurement(large["seconds"], "s of the driver for 125,123 shards", ratios, bars, {"large": large, "small": small})


def run(tokens: int, workers: int) -> dict[str, float]:
    plan = harvest_plan(tokens)
    ends: list[float] = []

    class Monitor:
        """Notes when the last shard was done: from there on the driver merges receipts."""

        def add(self, metric: str, amount: float, /, **labels: str) -> None:
            pass

        def set(self, metric: str, value: float, /, **labels: str) -> None:
            pass

        def progress(self, stage: str, done: int, total: int, /) -> None:
            if done == total:
                ends.append(time.perf_counter())

    began = time.perf_counter()
    manifest, cluster = simulate_harvest(simulated_store(plan, f"workers-{workers}"), plan, workers, CONDITIONS, Monitor())
    ended = time.perf_counter()
    [entries] = manifest.shards.values()
    pool = ends[-1] - began - cluster.seconds_inside
    return {
        "workers": workers, "shards": len(entries), "deaths": cluster.deaths, "store_errors": cluster.hiccups, "seconds": ended - began,
        "pool_seconds": pool, "pool_seconds_per_shard": pool / len(entries), "manifest_seconds": ended - ends[-1],
        "simulated_seconds": cluster.clock, "simulation_seconds": cluster.seconds_inside,
    }  # fmt: skip


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
