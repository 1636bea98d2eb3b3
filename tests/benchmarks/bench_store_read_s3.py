"""A store on a real S3 server (OpenStack Swift) read into float32 batches, against concurrent ranged GETs of the same bytes.

Both sides use the same client, as many connections and the same ranges; server and client share the machine. The plain side throws away what it gets.
"""

import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import s3fs

from sae.batches.loader import Batches
from sae.storage import Place
from sae.store.download import CONNECTIONS, RANGE_BYTES
from sae.store.manifest import shard_key
from sae.store.reader import Store
from sae.store.shards import HELD_BYTES
from tests.benchmarks.bench_store_read_local import BATCH_SIZE, HOOKPOINT, write_synthetic_store
from tests.benchmarks.harness import Bar, Measurement, Skipped, interleaved_seconds
from tests.servers.object_servers import SWIFT_PYTHON, swift_server

NUM_SHARDS = 4
REPEATS = 3


def measure() -> Measurement:
    if not SWIFT_PYTHON.exists():
        raise Skipped("no Swift: `make swift` installs it")
    with tempfile.TemporaryDirectory() as directory, swift_server(Path(directory)) as server:
        os.environ.update(server.environment())
        s3fs.S3FileSystem().mkdir("benchmark")
        place = Place("s3://benchmark/store")
        write_synthetic_store(place, NUM_SHARDS)
        entries = Store(place).manifest.shards[HOOKPOINT]
        size = sum(entry.bytes for entry in entries)
        held = []
        seconds = interleaved_seconds(
            {"reader": lambda: held.append(read_all(place)), "concurrent_gets": lambda: ranged_gets(place, [entry.bytes for entry in entries])},
            REPEATS,
        )
    rates = {name: size / found / 1e6 for name, found in seconds.items()}
    return Measurement(
        value=rates["reader"],
        unit="MB/s of stored float16, verified, into float32 batches",
        ratios={"concurrent_gets": rates["reader"] / rates["concurrent_gets"]},
        bars={"concurrent_gets": Bar(">=", 0.8)},
        details={
            "bytes": size,
            "shards": NUM_SHARDS,
            "batch_size": BATCH_SIZE,
            "connections": CONNECTIONS,
            "range_bytes": RANGE_BYTES,
            "megabytes_per_second": {name: round(rate) for name, rate in rates.items()},
            "most_held_bytes": max(most for most, _ in held),
            "bound_of_held_bytes": HELD_BYTES,
            "requested_bytes": held[-1][1],
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    )


def read_all(place: Place) -> tuple[int, int]:
    """One epoch from a store opened anew: the most bytes it held, and the bytes it asked for."""
    store = Store(place)
    most = max(store.held_bytes for _ in Batches(store, HOOKPOINT, BATCH_SIZE).iterate())
    return most, store.downloads.requested_bytes


def ranged_gets(place: Place, sizes: list[int]) -> None:
    """The same ranges of the same objects."""
    ranges = [
        (shard_key(HOOKPOINT, shard), start, min(start + RANGE_BYTES, size))
        for shard, size in enumerate(sizes)
        for start in range(0, size, RANGE_BYTES)
    ]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert sum(pool.map(lambda part: len(place.get(*part)), ranges)) == sum(sizes)
