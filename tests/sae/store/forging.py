"""A small store, and changes of it whose every digest is made to agree: what a downloaded store can hold."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xxhash

from sae.storage import Place, sha256_hex, to_json
from sae.store.manifest import StorePlan, finish_store, receipt_key, shard_key, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard

HOOKPOINT = "blocks.0.mlp.hook_post"
CONTEXT_LENGTH = 8
D_IN = 6


def write_small_store(place: Place, compression: str = "none", num_shards: int = 3, hookpoints: tuple[str, ...] = (HOOKPOINT,)) -> Store:
    """Shards of four sequences, whose first token is special."""
    plan = StorePlan(
        subject="planted", subject_digest="s", corpus_digest="c", context_length=CONTEXT_LENGTH, hookpoints=dict.fromkeys(hookpoints, D_IN),
        compression=compression, num_sequences=4 * num_shards, sequences_per_shard=4, special_token_ids=[0],
    )  # fmt: skip
    start_store(place, plan)
    for shard in range(num_shards):
        tokens = np.tile(np.arange(CONTEXT_LENGTH, dtype=np.uint32), (4, 1))
        draw = torch.Generator().manual_seed(shard)
        write_shard(place, plan, shard, tokens, {name: torch.randn(4, CONTEXT_LENGTH, D_IN, generator=draw) for name in hookpoints})
    finish_store(place, plan)
    return Store(place)


def change_manifest(place: Place, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, and the plan with it; their digests are made to agree."""
    manifest = place.get_json("manifest.json")
    change(manifest)
    content = {name: value for name, value in manifest.items() if name != "digest"}
    content["plan"] = {name: value for name, value in manifest["plan"].items() if name != "subject"}
    place.put_json("manifest.json", {**manifest, "digest": hashlib.sha256(to_json(content)).hexdigest()})
    place.put_sealed("plan.json", manifest["plan"])


def replace_shard(place: Place, data: bytes, shard: int = 0, **changes: Any) -> None:
    """Another object in the place of a shard; receipt and manifest say of it what it is, or what `changes` says."""
    place.put(shard_key(HOOKPOINT, shard), data)
    entry = {"bytes": len(data), "sha256": sha256_hex(data), "checksum": xxhash.xxh3_128_hexdigest(data), **changes}
    place.put_sealed(receipt_key(HOOKPOINT, shard), place.get_sealed(receipt_key(HOOKPOINT, shard)) | entry)
    change_manifest(place, lambda manifest: manifest["shards"][HOOKPOINT][shard].update(entry))
