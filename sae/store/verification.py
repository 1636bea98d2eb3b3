"""Everything a store holds, read again and compared with what vouches for it.

Each object is vouched for by another: shards and sequences by the manifest, receipts by the manifest's entries and, all together, by its
statistics, the manifest by its own digest and by the plan. What differs is named, one line an object; nothing is repaired.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sae.errors import InputError
from sae.storage import Place, to_json
from sae.store.manifest import CONCURRENT_READS, MANIFEST_KEY, PLAN_KEY, Receipt, StoreManifest, read_plan, receipt_key
from sae.store.reader import Store
from sae.store.statistics import merge_statistics


def verify_store(place: Place) -> Sequence[str]:
    """Read every object of a finished store; returns one line for each that is not what it should be.

    Raises:
        InputError: there is no finished store, or its manifest cannot be read: then nothing vouches for the rest.
    """
    store = Store(place)
    return [*_manifest_problems(store), *_receipt_problems(store), *store.verify()]


def _manifest_problems(store: Store) -> list[str]:
    place, manifest, problems = store.place, store.manifest, []
    shards = {name: [entry.model_dump() for entry in entries] for name, entries in manifest.shards.items()}
    digest = hashlib.sha256(to_json({"plan": manifest.plan.identity(), "shards": shards})).hexdigest()
    if digest != manifest.digest:
        problems.append(f"{place.path(MANIFEST_KEY)} cannot be trusted, its digest is not that of what it lists: delete it and run the harvest again")
    try:
        same_plan = read_plan(place).identity() == manifest.plan.identity()
    except InputError as error:
        problems.append(str(error))
    else:
        if not same_plan:
            problems.append(f"{place.path(PLAN_KEY)} cannot be trusted, it is not the plan of the manifest: write the manifest's plan there")
    return problems


def _receipt_problems(store: Store) -> list[str]:
    problems = []
    for hookpoint, entries in store.manifest.shards.items():
        keys = [receipt_key(hookpoint, shard) for shard in range(len(entries))]
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            found = list(pool.map(partial(_read_receipt, store.place), keys))
        for key, receipt, entry in zip(keys, found, entries, strict=True):
            if isinstance(receipt, InputError):
                problems.append(f"{store.place.path(key)} cannot be trusted, {receipt}")
            elif receipt.entry() != entry:
                problems.append(f"{store.place.path(key)} cannot be trusted, it is not what the manifest lists")
        receipts = [receipt for receipt in found if isinstance(receipt, Receipt)]
        if len(receipts) == len(entries) and not _agrees(store.manifest, hookpoint, receipts):
            problems.append(f"{store.place.path(MANIFEST_KEY)} cannot be trusted, its statistics of {hookpoint} are not those of the receipts")
    return problems


def _read_receipt(place: Place, key: str) -> Receipt | InputError:
    try:
        return Receipt.parse(place.get_json(key))
    except InputError as error:
        return error


def _agrees(manifest: StoreManifest, hookpoint: str, receipts: list[Receipt]) -> bool:
    return merge_statistics([receipts]) == manifest.statistics[hookpoint]
