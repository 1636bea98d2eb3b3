"""Everything a store holds, read again and compared with what vouches for it.

Each object is vouched for by another: shards and sequences by the manifest, receipts by the manifest's entries and, all together, by its
statistics, the manifest by its own digest and by the plan. What differs is named, one line an object; nothing is repaired.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sae.errors import InputError
from sae.storage import Place, to_json
from sae.store.manifest import CONCURRENT_READS, MANIFEST_KEY, PLAN_KEY, RECEIPTS_AT_ONCE, Receipt, read_plan, read_receipt, receipt_key
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
    for hookpoint in store.manifest.shards:
        unusable, differing, statistics = list[str](), list[str](), None
        with contextlib.suppress(InputError):  # no row at all
            statistics = merge_statistics(_usable_receipts(store, hookpoint, unusable, differing))
        problems += [*unusable, *differing]
        if not unusable and statistics != store.manifest.statistics[hookpoint]:
            problems.append(f"{store.place.path(MANIFEST_KEY)} cannot be trusted, its statistics of {hookpoint} are not those of the receipts")
    return problems


def _usable_receipts(store: Store, hookpoint: str, unusable: list[str], differing: list[str]) -> Iterator[list[Receipt]]:
    """Receipts in blocks, as those of a large store take gigabytes; what is wrong with one is added to `unusable` or `differing`."""
    entries = store.manifest.shards[hookpoint]
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        for first in range(0, len(entries), RECEIPTS_AT_ONCE):
            part = entries[first : first + RECEIPTS_AT_ONCE]
            numbers = range(first, first + len(part))
            block = []
            for number, found, entry in zip(numbers, pool.map(partial(_usable_receipt, store, hookpoint), numbers), part, strict=True):
                path = store.place.path(receipt_key(hookpoint, number))
                if isinstance(found, str):
                    unusable.append(f"{path} cannot be trusted, {found}")
                    continue
                block.append(found)
                if found.entry() != entry:
                    differing.append(f"{path} cannot be trusted, it is not what the manifest lists")
            if block:
                yield block


def _usable_receipt(store: Store, hookpoint: str, shard: int) -> Receipt | str:
    """A receipt, or what is wrong with it."""
    try:
        receipt = read_receipt(store.place, hookpoint, shard)
    except InputError as error:
        return str(error)
    found = len(receipt.sum), len(receipt.position_rows), len(receipt.position_sum_norm)
    expected = store.width(hookpoint), store.plan.context_length, store.plan.context_length
    return receipt if found == expected else f"its sums are over {found} elements, expected {expected}"
