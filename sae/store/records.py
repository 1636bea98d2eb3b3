"""The plan of a store, the receipts of its shards, its manifest, and the names of its objects."""

import hashlib
from typing import Any, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config
from sae.storage import to_json
from sae.store.schema import Compression, StoreDtype
from sae.store.statistics import HookpointStatistics, RowTotals

SCHEMA_VERSION: Final = 3
MANIFEST_KEY = "manifest.json"
PLAN_KEY = "plan.json"


class StorePlan(Config):
    """All that determines the bytes of a store."""

    schema_version: Literal[3] = SCHEMA_VERSION
    subject: str = Field(description="name of the subject model, for readers; its digest is what counts")
    subject_digest: str = Field(description="sha256 over the subject's weights in the precision it ran in")
    corpus_digest: str = Field(description="digest of the corpus manifest")
    context_length: PositiveInt = Field(description="tokens in a sequence")
    hookpoints: dict[str, PositiveInt] = Field(min_length=1, description="d_in of each hookpoint")
    dtype: StoreDtype = Field("float16", description="precision of the stored activations")
    compression: Compression = Field("none", description="of the activations within a shard")
    num_sequences: PositiveInt = Field(description="sequences of the training split, from the first on")
    sequences_per_shard: PositiveInt = Field(256, description="sequences of a shard; the last one may hold fewer")
    sequences_per_forward: PositiveInt = Field(32, description="sequences that run through the model at once: a matrix product rounds by its size")
    tokens_per_sequence: PositiveInt | None = Field(None, description="rows drawn from each sequence without replacement; null takes all")
    special_token_ids: list[NonNegativeInt] = Field(description="tokens whose activations are never stored (BOS, EOS)")
    seed: NonNegativeInt = Field(0, description="seed of the draw and of the order of rows within a shard")

    @property
    def num_shards(self) -> int:
        """Shards of each hookpoint."""
        return -(-self.num_sequences // self.sequences_per_shard)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The sequences `[first, last + 1)` of a shard."""
        return shard * self.sequences_per_shard, min((shard + 1) * self.sequences_per_shard, self.num_sequences)

    def identity(self) -> dict[str, Any]:
        """Return the fields that must be equal for two plans to be one: everything but the subject's name, since a model may move."""
        return self.model_dump(mode="json", exclude={"subject"})

    @property
    def digest(self) -> str:
        """Names what a store will hold before it is finished: the SHA-256 of `identity()` as JSON."""
        return hashlib.sha256(to_json(self.identity())).hexdigest()


class ShardEntry(Config):
    """One shard of one hookpoint, as the manifest lists it."""

    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str = Field(description="of the object: proof against anyone")
    checksum: str = Field(description="XXH3-128 of the object: proof against accidents, at the speed of memory")
    tokens_sha256: str = Field(description="of the object with the shard's sequences")


class Receipt(ShardEntry, RowTotals):
    """Proof that a shard is whole, with sums over its rows."""

    def entry(self) -> ShardEntry:
        """Return the part that the manifest keeps of it."""
        return ShardEntry(**self.model_dump(include=set(ShardEntry.model_fields)))


class StoreManifest(Config):
    """Manifest of a store; `digest` names its content and is what later stages pin."""

    plan: StorePlan
    shards: dict[str, list[ShardEntry]]
    statistics: dict[str, HookpointStatistics]
    digest: str = Field(description="sha256 over everything else but the subject's name, which `plan.json` covers")


def shard_key(hookpoint: str, shard: int) -> str:
    """Where a shard lies in its store."""
    return f"shards/{hookpoint}/{shard:06d}.arrow"


def receipt_key(hookpoint: str, shard: int) -> str:
    """Where a shard's receipt lies in its store."""
    return f"receipts/{hookpoint}/{shard:06d}.json"


def tokens_key(shard: int) -> str:
    """Where the sequences of a shard lie in its store."""
    return f"tokens/{shard:06d}.arrow"
