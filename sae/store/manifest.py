"""Writing and reading the plan of a store, the receipts that prove its shards whole, and the manifest that says it may be read.

::

    <store>/plan.json                              first
    <store>/tokens/000042.arrow                    the packed sequences of shard 42
    <store>/shards/<hookpoint>/000042.arrow        their activations
    <store>/receipts/<hookpoint>/000042.json       after the shard
    <store>/manifest.json                          last: the store may be read

Everything here is a function of the plan and the corpus: how many workers made a store, and how often they were killed, leaves no
trace in it.

Nothing is believed because it is there. Plan and receipts are sealed with a digest over all their fields. The manifest's digest covers the plan, the
shards and the statistics; its plan must be `plan.json`, and all its numbers must fit together (`sae.store.consistency`).
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sae.config import Config
from sae.errors import ConfigError, CorruptObjectError, InputError, PlanError
from sae.storage import Place, sealed, to_json, unsealed
from sae.store.consistency import manifest_problem, plan_problem, receipt_problem
from sae.store.records import (
    MANIFEST_KEY,
    PLAN_KEY,
    SCHEMA_VERSION,
    Receipt,
    ShardEntry,
    StoreManifest,
    StorePlan,
    receipt_key,
    shard_key,
    tokens_key,
)
from sae.store.statistics import merge_statistics

__all__ = [
    "MANIFEST_KEY",
    "PLAN_KEY",
    "SCHEMA_VERSION",
    "Receipt",
    "ShardEntry",
    "StoreManifest",
    "StorePlan",
    "examine_manifest",
    "finish_store",
    "fitting_receipt",
    "missing_shards",
    "read_manifest",
    "read_plan",
    "read_receipt",
    "receipt_key",
    "shard_key",
    "start_store",
    "tokens_key",
]

CONCURRENT_READS = 16  # small objects in an object store take tens of milliseconds each
RECEIPTS_AT_ONCE = 512  # each holds a sum for every element of its activations
Parsed = TypeVar("Parsed", bound=Config)


def read_plan(place: Place) -> StorePlan:
    """The plan of the store at `place`.

    Raises:
        InputError: there is none, or one of another release's schema.
        CorruptObjectError: it was changed after it was written.
    """
    found = place.get_json(PLAN_KEY)
    _check_schema(place, PLAN_KEY, found)
    plan = _parsed(StorePlan, place, PLAN_KEY, _unsealed(place, PLAN_KEY, found))
    if problem := plan_problem(plan):
        raise CorruptObjectError(f"{place.path(PLAN_KEY)} cannot be trusted, {problem}: choose another place, or delete this store")
    return plan


def read_manifest(place: Place) -> StoreManifest:
    """The proven manifest of the finished store at `place`.

    Raises:
        InputError: there is none, or one of another release's schema.
        CorruptObjectError: manifest or plan were changed after they were written, or do not fit each other.
    """
    manifest, problems = examine_manifest(place)
    if problems:
        raise CorruptObjectError(problems[0])
    return manifest


def examine_manifest(place: Place) -> tuple[StoreManifest, list[str]]:
    """The manifest of a store, and one line for each reason not to believe it.

    Raises:
        InputError: there is none, it cannot be read, or it has another release's schema.
    """
    found = place.get_json(MANIFEST_KEY)
    _check_schema(place, MANIFEST_KEY, found.get("plan") if isinstance(found, dict) else None)
    manifest, problems = _parsed(StoreManifest, place, MANIFEST_KEY, found), []
    stated = "its digest is not that of what it lists" if _digest(found) != manifest.digest else None
    if reason := stated or plan_problem(manifest.plan) or manifest_problem(manifest):
        problems.append(_untrusted(place, MANIFEST_KEY, reason))
    try:
        if read_plan(place) != manifest.plan:
            problems.append(_untrusted(place, PLAN_KEY, "it is not the plan of the manifest"))
    except (InputError, CorruptObjectError) as error:
        problems.append(str(error))
    return manifest, problems


def read_receipt(place: Place, hookpoint: str, shard: int) -> Receipt:
    """The receipt of a shard.

    Raises:
        InputError: there is none, or what is there is none.
        CorruptObjectError: it was changed after it was written.
    """
    key = receipt_key(hookpoint, shard)
    return _parsed(Receipt, place, key, _unsealed(place, key, place.get_json(key)))


def fitting_receipt(place: Place, plan: StorePlan, hookpoint: str, shard: int) -> Receipt:
    """The receipt of a shard, whose numbers are possible by the plan.

    Raises:
        InputError, CorruptObjectError: as `read_receipt`; or a number is not possible.
    """
    receipt = read_receipt(place, hookpoint, shard)
    if problem := receipt_problem(plan, hookpoint, shard, receipt):
        raise CorruptObjectError(_untrusted(place, receipt_key(hookpoint, shard), problem))
    return receipt


def start_store(place: Place, plan: StorePlan) -> None:
    """Write the plan, or check that it is the one the store was begun with.

    Raises:
        ConfigError: a store of this plan would have too many shards.
        PlanError: the place holds a store of another plan; the message names the differing fields.
    """
    if problem := plan_problem(plan):
        raise ConfigError(f"{place.url} cannot hold the store that was asked for, {problem}: choose a larger harvest.sequences_per_shard")
    if not place.exists(PLAN_KEY):
        # A finished store that lost it gets the manifest's: the name of its subject, which may have moved, stays the same in both.
        lost = examine_manifest(place)[0].plan if place.exists(MANIFEST_KEY) else None
        if place.put_new(PLAN_KEY, to_json(sealed((lost or plan).model_dump(mode="json")))) and not lost:
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
        CorruptObjectError: a receipt or the manifest that is there was changed after it was written.
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
    # The plan that is there: under whichever name a later command knows the subject, the manifest is the same.
    manifest = StoreManifest(plan=read_plan(place), shards=shards, statistics=statistics, digest="")
    content = manifest.model_dump(mode="json")
    content["digest"] = _digest(content)
    manifest = manifest.model_copy(update={"digest": content["digest"]})
    if problem := manifest_problem(manifest):
        raise CorruptObjectError(f"the receipts of {place.url} cannot be trusted, {problem}: `monosem clean` and harvest again, into another place")
    if not place.put_new(MANIFEST_KEY, to_json(content)) and read_manifest(place).digest != manifest.digest:
        raise PlanError(f"{place.path(MANIFEST_KEY)} was written by another harvest meanwhile, of other shards: `monosem show --verify` says which")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    """The digest of a manifest as JSON, which names its content: the plan without the subject's name, the shards, the statistics."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(to_json({**content, "plan": {name: value for name, value in manifest["plan"].items() if name != "subject"}})).hexdigest()


def _untrusted(place: Place, key: str, reason: str) -> str:
    return f"{place.path(key)} cannot be trusted, {reason}: delete it and run the harvest again"


def _unsealed(place: Place, key: str, found: Any) -> dict[str, Any]:
    try:
        return unsealed(found, place.path(key))
    except CorruptObjectError:
        raise CorruptObjectError(_untrusted(place, key, "it was changed after it was written")) from None


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
        age, remedy = ("a newer", "read it with that version") if version > SCHEMA_VERSION else ("an older", "harvest again, into another place")
        raise InputError(f"{place.path(key)} was written by {age} version: it has schema {version}, this one knows {SCHEMA_VERSION}; {remedy}")


def _read_receipts(place: Place, plan: StorePlan, hookpoint: str, entries: list[ShardEntry]) -> Iterator[list[Receipt]]:
    """Receipts in blocks; what the manifest keeps of them goes to `entries`. All at once, those of a large store take gigabytes."""
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        for first in range(0, plan.num_shards, RECEIPTS_AT_ONCE):
            numbers = range(first, min(first + RECEIPTS_AT_ONCE, plan.num_shards))
            block = list(pool.map(lambda shard: fitting_receipt(place, plan, hookpoint, shard), numbers))
            entries += [receipt.entry() for receipt in block]
            yield block


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
