"""The plan a store is made by, the receipts that prove its shards whole, and the manifest that says it may be read.

::

    <store>/plan.json                              first
    <store>/tokens/000042.arrow                    the packed sequences of shard 42
    <store>/shards/<hookpoint>/000042.arrow        their activations
    <store>/receipts/<hookpoint>/000042.json       after the shard
    <store>/manifest.json                          last: the store may be read

Everything here is a function of the plan and the corpus: how many workers made a store, and how often they were killed, leaves no
trace in it.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt

from sae.config import Config
from sae.errors import ConfigError, InputError, PlanError
from sae.storage import Place, to_json
from sae.store.schema import Compression, StoreDtype
from sae.store.statistics import HookpointStatistics, RowTotals, merge_statistics

SCHEMA_VERSION: Final = 2
MANIFEST_KEY = "manifest.json"
PLAN_KEY = "plan.json"
CONCURRENT_READS = 16  # small objects in an object store take tens of milliseconds each
RECEIPTS_AT_ONCE = 512  # each holds a sum for every element of its activations
Parsed = TypeVar("Parsed", bound=Config)


class StorePlan(Config):
    """All that determines the bytes of a store."""

    schema_version: Literal[2] = SCHEMA_VERSION
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
        """What must be equal for two plans to be one: everything but the subject's name, since a model may move."""
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
        """What the manifest keeps of it."""
        return ShardEntry(**self.model_dump(include=set(ShardEntry.model_fields)))


class StoreManifest(Config):
    """What a store holds; `digest` names its content and is what later stages pin."""

    plan: StorePlan
    shards: dict[str, list[ShardEntry]]
    statistics: dict[str, HookpointStatistics]
    digest: str


def shard_key(hookpoint: str, shard: int) -> str:
    """Where a shard lies in its store."""
    return f"shards/{hookpoint}/{shard:06d}.arrow"


def receipt_key(hookpoint: str, shard: int) -> str:
    """Where a shard's receipt lies in its store."""
    return f"receipts/{hookpoint}/{shard:06d}.json"


def tokens_key(shard: int) -> str:
    """Where the sequences of a shard lie in its store."""
    return f"tokens/{shard:06d}.arrow"


def read_plan(place: Place) -> StorePlan:
    """The plan of the store at `place`.

    Raises:
        InputError: there is none, or one of another release's schema.
    """
    found = place.get_json(PLAN_KEY)
    _check_schema(place, PLAN_KEY, found)
    return _parsed(StorePlan, place, PLAN_KEY, found)


def read_manifest(place: Place) -> StoreManifest:
    """The manifest of the finished store at `place`.

    Raises:
        InputError: there is none, or one of another release's schema.
    """
    found = place.get_json(MANIFEST_KEY)
    _check_schema(place, MANIFEST_KEY, found.get("plan") if isinstance(found, dict) else None)
    return _parsed(StoreManifest, place, MANIFEST_KEY, found)


def read_receipt(place: Place, hookpoint: str, shard: int) -> Receipt:
    """The receipt of a shard.

    Raises:
        InputError: there is none, or what is there is none.
    """
    key = receipt_key(hookpoint, shard)
    return _parsed(Receipt, place, key, place.get_json(key))


def start_store(place: Place, plan: StorePlan) -> None:
    """Write the plan, or check that it is the one the store was begun with.

    Raises:
        PlanError: the place holds a store of another plan; the message names the differing fields.
    """
    if not place.exists(PLAN_KEY) and place.put_new(PLAN_KEY, to_json(plan.model_dump(mode="json"))):
        return  # else another came first, perhaps with another plan
    found, wanted = read_plan(place).identity(), plan.identity()
    differing = [f"{name} (there {_short(found[name])}, now {_short(wanted[name])})" for name in wanted if found[name] != wanted[name]]
    if differing:
        raise PlanError(f"{place.url} holds a store made with another plan: {'; '.join(differing)}. Choose another output, or delete it")


def missing_shards(place: Place, plan: StorePlan) -> list[int]:
    """The shards that lack the receipt of at least one hookpoint, in order."""
    there = set(place.list("receipts"))
    return [shard for shard in range(plan.num_shards) if any(receipt_key(hookpoint, shard) not in there for hookpoint in plan.hookpoints)]


def finish_store(place: Place, plan: StorePlan) -> StoreManifest:
    """Merge the receipts and write the manifest; returns the one that is there if the store was finished before.

    Raises:
        InputError: a shard has no receipt.
        PlanError: the manifest there belongs to another plan, or was made of other receipts meanwhile.
    """
    start_store(place, plan)
    if place.exists(MANIFEST_KEY):
        return read_manifest(place)
    missing = missing_shards(place, plan)
    if missing:
        raise InputError(f"{place.url} lacks {len(missing)} of {plan.num_shards} shards, the first is {missing[0]}: run the harvest again")
    shards: dict[str, list[ShardEntry]] = {}
    statistics = {}
    for hookpoint in sorted(plan.hookpoints):
        entries = shards[hookpoint] = []
        statistics[hookpoint] = merge_statistics(_read_receipts(place, plan, hookpoint, entries))
    content = {"plan": plan.identity(), "shards": {name: [entry.model_dump() for entry in entries] for name, entries in shards.items()}}
    manifest = StoreManifest(plan=plan, shards=shards, statistics=statistics, digest=hashlib.sha256(to_json(content)).hexdigest())
    del content  # of a large store, some hundred megabytes
    if not place.put_new(MANIFEST_KEY, to_json(manifest.model_dump(mode="json"))) and read_manifest(place).digest != manifest.digest:
        raise PlanError(f"{place.path(MANIFEST_KEY)} was written by another harvest meanwhile, of other shards: `monosem show --verify` says which")
    return manifest


def _parsed(kind: type[Parsed], place: Place, key: str, found: Any) -> Parsed:
    try:
        return kind.parse(found)
    except ConfigError as error:
        raise InputError(f"{place.path(key)} was not written by this tool, or was damaged ({error}): delete it and run the harvest again") from None


def _check_schema(place: Place, key: str, plan: Any) -> None:
    version = plan.get("schema_version") if isinstance(plan, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{place.path(key)} has no schema_version: it was not written by this tool, or was damaged; choose another place")
    if version != SCHEMA_VERSION:
        age, remedy = ("newer", "read it with that version") if version > SCHEMA_VERSION else ("older", "harvest again, into another place")
        raise InputError(f"{place.path(key)} was written by a {age} version: it has schema {version}, this one knows {SCHEMA_VERSION}; {remedy}")


def _read_receipts(place: Place, plan: StorePlan, hookpoint: str, entries: list[ShardEntry]) -> Iterator[list[Receipt]]:
    """Receipts in blocks; what the manifest keeps of them goes to `entries`. All at once, those of a large store take gigabytes."""
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        for first in range(0, plan.num_shards, RECEIPTS_AT_ONCE):
            numbers = range(first, min(first + RECEIPTS_AT_ONCE, plan.num_shards))
            block = list(pool.map(lambda shard: read_receipt(place, hookpoint, shard), numbers))
            entries += [receipt.entry() for receipt in block]
            yield block


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
