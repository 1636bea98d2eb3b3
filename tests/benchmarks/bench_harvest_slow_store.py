"""Memory of a harvest worker while its store takes 5 MB/s: bounded by its buffers, and as high at the end as at the beginning.

The worker runs in a process of its own and puts its shards through a throttled line to an S3 server; its resident memory is looked at twenty
times a second. `memory_last_to_first_half` compares the peaks of the halves of the throttled time: a slow store must not let anything pile up.
`peak_to_unthrottled` compares its peak with that of the first shards, which went through an open line and were fewer; it is told, not judged.
"""

import os
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import s3fs
import torch

from sae.corpus.packing import TokenCorpus
from sae.storage import Place
from sae.store.manifest import StorePlan
from sae.store.writer import encoding_bytes
from sae.subject.model import SubjectConfig
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import InProcess, embedded_corpus, embedded_plan, on_disk
from tests.benchmarks.workers import CORES
from tests.servers.fault_proxy import FaultProxy
from tests.servers.object_servers import moto_server

BYTES_PER_SECOND = 5e6
SHARDS, OPEN_SHARDS = 28, 8
SEQUENCES_PER_SHARD = 32  # 8 MiB of float16
LOOKS_PER_SECOND = 20


def measure() -> Measurement:
    with on_disk() as directory, tempfile.TemporaryDirectory() as served, moto_server(Path(served)) as server:
        corpus = embedded_corpus(directory, SHARDS * SEQUENCES_PER_SHARD * 256)
        plan = embedded_plan(corpus, SubjectConfig(), sequences_per_shard=SEQUENCES_PER_SHARD)
        with FaultProxy(server.port) as proxy:
            os.environ.update(server.environment(proxy.url), AWS_DEFAULT_REGION="us-east-1")
            s3fs.S3FileSystem().mkdir("bucket")
            ours, theirs = get_context("spawn").Pipe()
            worker = get_context("spawn").Process(target=harvest, args=(corpus.place.url, plan, theirs))
            worker.start()
            ours.recv()
            process = psutil.Process(worker.pid)
            open_sizes = watch(process, ours)
            proxy.bytes_per_second = BYTES_PER_SECOND
            began = time.perf_counter()
            ours.send("go")
            sizes = watch(process, ours)
            seconds = time.perf_counter() - began
            worker.join(30)
            passed = proxy.passed_bytes
    half = len(sizes) // 2
    ratios = {"memory_last_to_first_half": max(sizes[half:]) / max(sizes[:half]), "peak_to_unthrottled": max(sizes) / max(open_sizes)}
    details = {
        "seconds": seconds, "stored_bytes": passed, "shards": SHARDS, "encoding_bytes": encoding_bytes(plan),
        "unthrottled_peak_bytes": max(open_sizes),
        "peak_bytes_by_tenth": [max(sizes[len(sizes) * part // 10 : len(sizes) * (part + 1) // 10]) for part in range(10)],
    }  # fmt: skip
    bars = {"memory_last_to_first_half": Bar("<=", 1.05)}
    return Measurement(max(sizes) / 2**20, "MiB at the peak", ratios, bars, details)


def harvest(corpus_url: str, plan: StorePlan, pipe: Connection) -> None:
    """The worker's process: some shards to fill every buffer, then all others through the slow line."""
    torch.set_num_threads(CORES)
    place_url = "s3://bucket/store"
    worker = InProcess(TokenCorpus(Place(corpus_url)), plan, place_url, SubjectConfig())
    pipe.send("loaded")
    worker.run(list(range(OPEN_SHARDS)))
    pipe.send("open line done")
    pipe.recv()
    worker.run(list(range(OPEN_SHARDS, plan.num_shards)))
    pipe.send("done")
    sys.exit(0)


def watch(process: psutil.Process, pipe: Connection) -> list[int]:
    """Resident bytes of the worker until it says something."""
    sizes = []
    while not pipe.poll(1 / LOOKS_PER_SECOND):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("the worker died; its stderr says why")
        sizes.append(process.memory_info().rss)
    pipe.recv()
    return sizes
