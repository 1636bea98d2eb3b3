"""Lost objects of a store: what its receipts or its manifest promise, and its storage does not hold or holds in another size.

A power cut can keep a receipt and lose the shard that was put before it, since they lie in different directories; a copy can end early; a file can
be deleted by hand. A shard is a function of the plan, so a harvest makes it again. It finds losses by one listing, without reading an object:
changes within an object are found when it is read, and by `monosem show --verify`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sae.storage import Place
from sae.store.manifest import CONCURRENT_READS, RECEIPTS_AT_ONCE, fitting_receipt, read_manifest
from sae.store.records import MANIFEST_KEY, StorePlan, receipt_key, shard_key, tokens_key


def lost_receipts(place: Place, plan: StorePlan) -> list[str]:
    """Keys of the receipts whose shard or sequences are lost; of a finished store, those that are lost themselves, too.

    Raises:
        InputError, CorruptObjectError: the manifest or a receipt cannot be trusted.
        StorageError: the storage cannot be listed.
    """
    sizes = {entry.key: entry.bytes for entry in place.entries()}
    lost = []
    for hookpoint, shard, promised in _promised(place, plan, sizes):
        receipt, rows, tokens = receipt_key(hookpoint, shard), shard_key(hookpoint, shard), tokens_key(shard)
        first, stop = plan.shard_range(shard)
        if not (
            _there(place, sizes, receipt)
            and _there(place, sizes, rows, promised, promised)
            and _there(place, sizes, tokens, (stop - first) * (4 * plan.context_length + 8))
        ):
            lost.append(receipt)
    return lost


def forget_lost(place: Place, plan: StorePlan) -> list[int]:
    """Delete the receipts of lost objects, so that their shards count as missing; returns those shards. Needs the store's lease.

    Raises:
        InputError, CorruptObjectError, StorageError: as `lost_receipts`.
    """
    lost = lost_receipts(place, plan)
    for key in lost:
        place.delete(key)
    return sorted({int(key.removesuffix(".json").rpartition("/")[2]) for key in lost})


def _promised(place: Place, plan: StorePlan, sizes: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """`(hookpoint, shard, bytes)` of every shard that is said to be there."""
    if place.exists(MANIFEST_KEY):
        for hookpoint, entries in read_manifest(place).shards.items():
            yield from ((hookpoint, shard, entry.bytes) for shard, entry in enumerate(entries))
        return
    made = [(name, shard) for name in sorted(plan.hookpoints) for shard in range(plan.num_shards) if receipt_key(name, shard) in sizes]
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        for first in range(0, len(made), RECEIPTS_AT_ONCE):
            part = made[first : first + RECEIPTS_AT_ONCE]
            sizes_of_shards = pool.map(lambda each: fitting_receipt(place, plan, *each).bytes, part)
            yield from ((hookpoint, shard, size) for (hookpoint, shard), size in zip(part, sizes_of_shards, strict=True))


def _there(place: Place, sizes: dict[str, int], key: str, least: int = 1, most: float = float("inf")) -> bool:
    """Say whether an object has a possible size. A listing may lag behind (OpenStack Swift): what it lacks is asked for by name."""
    return least <= sizes[key] <= most if key in sizes else place.exists(key)
