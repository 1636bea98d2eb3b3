"""Eight dictionaries trained from one reader, against eight runs that each read the store for themselves; the store lies on an S3 server.

Reading is the wall time that training waits for vectors: those of the first batches, from which it takes its statistics, and those of each
step that were not there yet. A step is that of one dictionary, in company and alone. The lone runs come half before the common one and half
after it, so that a machine that slows down slows both sides.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import s3fs
import torch

from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.training.config import TrainingConfig
from sae.training.engine import train
from tests.benchmarks.harness import Bar, Measurement, Skipped
from tests.servers.object_servers import SWIFT_PYTHON, swift_server

HOOKPOINT, D_IN, CONTEXT_LENGTH = "blocks.0.mlp.hook_post", 512, 256
NUM_SHARDS, SEQUENCES_PER_SHARD = 8, 64  # 131,072 vectors in float16: 134 MB
BATCH_SIZE, D_SAE = 4096, 1024
GRID = {"sae.k": [16, 32], "optimizer.learning_rate": [5e-4, 1e-3], "seed": [0, 1]}


def measure() -> Measurement:
    if not Path(SWIFT_PYTHON).exists():
        raise Skipped("the S3 server is not installed: make swift")
    directory = Path(tempfile.mkdtemp())
    with swift_server(directory) as server:
        os.environ.update(server.environment())
        s3fs.S3FileSystem().mkdir("bench-many")
        url = "s3://bench-many/store"
        write_store(Place(url))
        config = TrainingConfig.parse(
            {
                "dictionaries": [{"sae": {"architecture": "topk", "d_sae": D_SAE}, "grid": GRID}],
                "batch_size": BATCH_SIZE,
                "log_every": 1,
                "checkpoint_seconds": 1e6,
            }
        )
        lone = [config.model_copy(update={"dictionaries": [dictionary]}) for dictionary in config.dictionaries]
        run(url, lone[0], directory / "warm-up")
        before = [run(url, one, directory / "alone") for one in lone[: len(lone) // 2]]
        together = run(url, config, directory / "together")
        alone = before + [run(url, one, directory / "alone") for one in lone[len(lone) // 2 :]]
    same = all(
        (directory / "alone" / name / "weights.safetensors").read_bytes() == (directory / "together" / name / "weights.safetensors").read_bytes()
        for name in together
    )
    reading = {"together": next(iter(together.values()))["read_seconds"], "alone": sum(read_of(results) for results in alone)}
    steps = {"together": median_step(directory / "together"), "alone": median_step(directory / "alone")}
    return Measurement(
        value=reading["together"],
        unit="s of waiting for vectors, for eight dictionaries together",
        ratios={"reading_time": reading["alone"] / reading["together"], "step_time": steps["together"] / steps["alone"]},
        bars={"reading_time": Bar(">=", 3.0), "step_time": Bar("<=", 1.05)},
        details={
            "dictionaries": len(together),
            "vectors": NUM_SHARDS * SEQUENCES_PER_SHARD * CONTEXT_LENGTH,
            "bytes_of_vectors": NUM_SHARDS * SEQUENCES_PER_SHARD * CONTEXT_LENGTH * D_IN * 2,
            "d_sae": D_SAE,
            "batch_size": BATCH_SIZE,
            "reading_seconds": reading,
            "step_seconds": steps,
            "same_bytes_of_weights": same,
        },
    )


def write_store(place: Place) -> None:
    """Sparse positive vectors, as MLP activations are; what they are makes no difference to the reader."""
    plan = StorePlan(
        subject="synthetic", subject_digest="0", corpus_digest="0", context_length=CONTEXT_LENGTH, hookpoints={HOOKPOINT: D_IN}, dtype="float16",
        num_sequences=NUM_SHARDS * SEQUENCES_PER_SHARD, sequences_per_shard=SEQUENCES_PER_SHARD, special_token_ids=[],
    )  # fmt: skip
    start_store(place, plan)
    draw = torch.Generator().manual_seed(0)
    for shard in range(plan.num_shards):
        activations = torch.relu(torch.randn(SEQUENCES_PER_SHARD, CONTEXT_LENGTH, D_IN, generator=draw) - 1)
        tokens = torch.ones(SEQUENCES_PER_SHARD, CONTEXT_LENGTH, dtype=torch.int64).numpy().astype("uint32")
        write_shard(place, plan, shard, tokens, {HOOKPOINT: activations.half()})
    finish_store(place, plan)


def run(url: str, config: TrainingConfig, output: Path) -> dict[str, dict[str, Any]]:
    """One training run, with a reader of its own."""
    return train(Store(Place(url)), HOOKPOINT, config, Place(output))


def read_of(results: dict[str, dict[str, Any]]) -> float:
    [result] = results.values()
    return float(result["read_seconds"])


def median_step(output: Path) -> float:
    """The median over all steps of all dictionaries; the first of each, which warms caches up, is left out."""
    logs = [path.read_text().splitlines()[1:] for path in sorted(output.glob("*/training.jsonl"))]
    return statistics.median(json.loads(line)["step_seconds"] for lines in logs for line in lines)
