"""A store of vectors that are at hand, without a model: each row is a sequence of one token, whose number is 0."""

import hashlib
import os

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.errors import InputError, WidthError
from sae.storage import Place
from sae.store.manifest import MANIFEST_KEY, PLAN_KEY, StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.schema import StoreDtype
from sae.store.writer import write_shard

VECTORS_PER_SHARD = 65_536
SUBJECT = "vectors at hand"
HASHED_ROWS = 65_536

Vectors = Float[Tensor, "vectors d_in"] | Float[np.ndarray, "vectors d_in"]


def write_store(
    url: str | os.PathLike[str] | Place, vectors: dict[str, Vectors], dtype: StoreDtype = "float16", vectors_per_shard: int = VECTORS_PER_SHARD
) -> Store:
    """Write vectors into a new store, one shard after the other, so that a memory-mapped file is never held whole.

    The store trains dictionaries, resumes and verifies as a harvested one does. Evaluation and interpretation need the model and are refused.

    Args:
        url: a place without a store.
        vectors: by hookpoint; row i of each is the same token. A transcoder needs two.
        dtype: of the stored vectors.
        vectors_per_shard: the unit of reading and shuffling.

    Returns:
        The finished store, open for reading.

    Raises:
        InputError: there is a store already, or no vector.
        WidthError: an array is not of shape `[vectors, d_in]`, or they differ in length.
        ConfigError: a vector that the dtype cannot hold.
    """
    place = url if isinstance(url, Place) else Place(url)
    if place.exists(MANIFEST_KEY) or place.exists(PLAN_KEY):
        raise InputError(f"{place.url} holds a store already: choose another place, or delete it")
    count = _common_length(vectors)
    plan = StorePlan(
        subject=SUBJECT,
        subject_digest=_digest(vectors),
        corpus_digest="",
        context_length=1,
        hookpoints={name: array.shape[1] for name, array in vectors.items()},
        dtype=dtype,
        num_sequences=count,
        sequences_per_shard=min(vectors_per_shard, count),
        special_token_ids=[],
    )
    start_store(place, plan)
    for shard in range(plan.num_shards):
        first, stop = plan.shard_range(shard)
        part = {name: _rows(array, first, stop).unsqueeze(1) for name, array in vectors.items()}
        write_shard(place, plan, shard, np.zeros((stop - first, 1), np.uint32), part)
    finish_store(place, plan)
    return Store(place)


def _common_length(vectors: dict[str, Vectors]) -> int:
    if not vectors:
        raise InputError("no vectors were given: name at least one hookpoint, such as {'mlp': array}")
    for name, array in vectors.items():
        if array.ndim != 2:
            raise WidthError(f"vectors of {name!r} have shape {list(array.shape)}, expected [vectors, d_in]: flatten all but the last axis")
    lengths = {name: len(array) for name, array in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise WidthError(f"vectors of one token belong in one row, and their numbers differ: {lengths}. Give as many of each")
    count = next(iter(lengths.values()))
    if count == 0:
        raise InputError("there is no vector to write: give some")
    return count


def _digest(vectors: dict[str, Vectors]) -> str:
    """Names the vectors, as a subject's digest does a model."""
    digest = hashlib.sha256()
    for name in sorted(vectors):
        array = vectors[name]
        digest.update(f"{name} {tuple(array.shape)} {_rows(array, 0, 1).dtype}\n".encode())
        for first in range(0, len(array), HASHED_ROWS):
            digest.update(_rows(array, first, first + HASHED_ROWS).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _rows(array: Vectors, first: int, stop: int) -> Float[Tensor, "rows d_in"]:
    part = array[first:stop]
    # Copied: a file may be mapped read-only, which torch does not take.
    return part.detach().cpu() if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
