"""Stores of synthetic activations with known features."""

import numpy as np
import torch

from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard

HOOKPOINT = "blocks.0.mlp.hook_post"
CONTEXT_LENGTH = 64


def planted_activations(num: int, directions: torch.Tensor, mean_active: float = 2.0, seed: int = 0) -> torch.Tensor:
    """Vectors that are sparse positive combinations of unit `directions`, with an offset of 0.1 in every coordinate."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(num, len(directions), generator=generator) < mean_active / len(directions)
    amounts = 0.5 + torch.rand(num, len(directions), generator=generator)
    return (active * amounts) @ directions + 0.1


def planted_directions(num: int, d_in: int, seed: int = 0) -> torch.Tensor:
    """Random unit vectors."""
    directions = torch.randn(num, d_in, generator=torch.Generator().manual_seed(seed))
    return directions / directions.norm(dim=1, keepdim=True)


def write_store(place: Place, activations: torch.Tensor, sequences_per_shard: int = 16) -> Store:
    """A finished store that holds every row of `activations` (a multiple of 64 of them)."""
    num_sequences = len(activations) // CONTEXT_LENGTH
    plan = StorePlan(
        subject="planted", subject_digest="0", corpus_digest="0", context_length=CONTEXT_LENGTH, hookpoints={HOOKPOINT: activations.shape[1]},
        dtype="float32", num_sequences=num_sequences, sequences_per_shard=sequences_per_shard, special_token_ids=[],
    )  # fmt: skip
    start_store(place, plan)
    sequences = activations.reshape(num_sequences, CONTEXT_LENGTH, -1)
    for shard in range(plan.num_shards):
        first, last = plan.shard_range(shard)
        tokens = np.ones((last - first, CONTEXT_LENGTH), dtype=np.uint32)
        write_shard(place, plan, shard, tokens, {HOOKPOINT: sequences[first:last]})
    finish_store(place, plan)
    return Store(place)
