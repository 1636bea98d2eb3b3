"""A local store read into float32 batches, against a plain sequential read of the same files.

Everything lies in the page cache: what is measured is the reader, not a disk. The plain read is one stream: each file from front to back, `readinto`
into one buffer that is used again. As much with as many streams as the loader has threads is told too, without a bar: no reader that
checks every byte and writes two for each that it reads can come near it. So is a buffer that never leaves the processor's cache.

The first pass opens a store anew and verifies every shard; a later one goes over a store whose shards are verified.
"""

import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sae.batches.loader import READING_THREADS, Batches
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from tests.benchmarks.harness import Bar, Measurement, interleaved_seconds
from tests.benchmarks.mixing import mixing_figures

HOOKPOINT, D_IN, CONTEXT_LENGTH = "blocks.0.mlp.hook_post", 512, 256
NUM_SHARDS, SEQUENCES_PER_SHARD = 12, 256
BATCH_SIZE = 4096
SMALL_BUFFER_BYTES = 2**20
REPEATS = 3


def measure() -> Measurement:
    with tempfile.TemporaryDirectory() as directory:
        place = Place(directory)
        store = write_synthetic_store(place)
        files = sorted(Path(directory, "shards").rglob("*.arrow"))
        size = sum(file.stat().st_size for file in files)
        largest = max(file.stat().st_size for file in files)
        whole, small = ([memoryview(bytearray(count)) for _ in range(READING_THREADS)] for count in (largest, SMALL_BUFFER_BYTES))
        seconds = interleaved_seconds(
            {
                "first_pass": lambda: read_all(Store(place)),
                "later_pass": lambda: read_all(store),
                "sequential_read": lambda: plain_read(files, whole[:1]),
                "one_stream_a_thread": lambda: plain_read(files, whole),
                "sequential_read_1mib_buffer": lambda: plain_read(files, small[:1]),
            },
            REPEATS,
        )
    rates = {name: size / found / 1e6 for name, found in seconds.items()}
    return Measurement(
        value=rates["first_pass"],
        unit="MB/s of stored float16, verified, into float32 batches",
        ratios={
            "sequential_read": rates["first_pass"] / rates["sequential_read"],
            "sequential_read (later pass)": rates["later_pass"] / rates["sequential_read"],
            "one_stream_a_thread": rates["first_pass"] / rates["one_stream_a_thread"],
            "sequential_read_1mib_buffer": rates["first_pass"] / rates["sequential_read_1mib_buffer"],
        },
        bars={"sequential_read": Bar(">=", 0.7)},
        details={
            "bytes": size,
            "shards": NUM_SHARDS,
            "batch_size": BATCH_SIZE,
            "threads": READING_THREADS,
            "megabytes_per_second": {name: round(rate) for name, rate in rates.items()},
            "vectors_per_second": round(rates["first_pass"] * 1e6 / (2 * D_IN)),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "mixing": mixing_figures(),
        },
    )


def write_synthetic_store(place: Place, num_shards: int = NUM_SHARDS, compression: str = "none") -> Store:
    """A store of the default shard size, with as many zeros as ReLU activations have."""
    plan = StorePlan(
        subject="synthetic", subject_digest="0", corpus_digest="0", context_length=CONTEXT_LENGTH, hookpoints={HOOKPOINT: D_IN}, dtype="float16",
        compression=compression, num_sequences=num_shards * SEQUENCES_PER_SHARD, sequences_per_shard=SEQUENCES_PER_SHARD, special_token_ids=[0],
    )  # fmt: skip
    start_store(place, plan)
    tokens = np.ones((SEQUENCES_PER_SHARD, CONTEXT_LENGTH), np.uint32)
    tokens[:, 0] = 0
    generator = torch.Generator().manual_seed(0)
    activations = torch.relu(torch.randn(SEQUENCES_PER_SHARD, CONTEXT_LENGTH, D_IN, generator=generator) - 1.3).half()
    for shard in range(num_shards):
        activations[0, 1, 0] = shard  # no two objects are the same
        write_shard(place, plan, shard, tokens, {HOOKPOINT: activations})
    finish_store(place, plan)
    return Store(place)


def read_all(store: Store) -> int:
    """One epoch, each batch given up before the next is asked for; the sum keeps anyone from skipping the reading."""
    return sum(int(batch[0, 0].item() >= 0) for _, batch in Batches(store, HOOKPOINT, BATCH_SIZE).iterate())


def plain_read(files: list[Path], buffers: list[memoryview]) -> None:
    """Every file once, front to back, by one stream for each buffer."""

    def read(stream: int) -> None:
        for path in files[stream :: len(buffers)]:
            with open(path, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while file.readinto(buffers[stream]):
                    pass

    with ThreadPoolExecutor(len(buffers)) as pool:
        list(pool.map(read, range(len(buffers))))
