"""Ray's share of a harvest: a pool of one worker against the same worker called in this process.

`pool_share` is the time per shard in the pool divided by the time per shard in-process, minus 1. Both hold two shards at once on two threads,
and both are timed from the first finished shard to the last: starting Ray and a worker is not part of it, since it does not grow with the store.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
import torch

from sae.corpus.packing import TokenCorpus
from sae.execution import QueueOptions
from sae.storage import Place
from sae.store.harvest import HarvestWorker
from sae.store.manifest import StorePlan, start_store
from sae.subject.model import SubjectConfig
from services.pool.ray_pool import run_pool
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import InProcess, embedded_corpus, embedded_plan, on_disk
from tests.benchmarks.workers import CORES

SHARDS = 14
ROUNDS = 3
SUBJECT = SubjectConfig()


def measure() -> Measurement:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    torch.set_num_threads(CORES)
    with on_disk() as directory:
        corpus = embedded_corpus(directory, SHARDS * 128 * 256)
        plan = embedded_plan(corpus, SUBJECT, sequences_per_shard=128)
        here = InProcess(corpus, plan, directory / "warm", SUBJECT)
        here.run([0, 1])
        ray.init(num_cpus=CORES, include_dashboard=False, configure_logging=False, log_to_driver=False, object_store_memory=128 * 2**20)
        try:
            found: dict[str, list[float]] = {"in_process": [], "pool": []}
            for turn in range(ROUNDS):
                found["in_process"].append(in_process_seconds(here, directory / f"here-{turn}"))
                found["pool"].append(pool_seconds(corpus, plan, directory / f"pool-{turn}"))
        finally:
            ray.shutdown()
    seconds = {name: statistics.median(times) for name, times in found.items()}
    share = seconds["pool"] / seconds["in_process"] - 1
    details = {"seconds_per_shard": seconds, "all": found, "shards": SHARDS, "sequences_per_shard": 128}
    return Measurement(100 * share, "% of the in-process time", {"pool_share": share}, {"pool_share": Bar("<=", 0.05)}, details)


def in_process_seconds(here: InProcess, store: Path) -> float:
    here.worker.place = Place(store)
    start_store(here.worker.place, here.plan)
    finished = []
    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(here.worker.run, shard) for shard in range(here.plan.num_shards)]:
            future.add_done_callback(lambda _: finished.append(time.perf_counter()))
    return (finished[-1] - finished[0]) / (len(finished) - 1)


def pool_seconds(corpus: TokenCorpus, plan: StorePlan, store: Path) -> float:
    start_store(Place(store), plan)
    arguments = (plan, corpus.place.url, str(store), SUBJECT)
    results = run_pool(HarvestWorker, arguments, list(range(plan.num_shards)), 1, QueueOptions(num_cpus=CORES, queue=2))
    finished = [time.perf_counter() for _ in results]
    return (finished[-1] - finished[0]) / (len(finished) - 1)
