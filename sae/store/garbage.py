"""What lies in a store and belongs to nothing: found, counted, and deleted on request.

=====================  =================================================================================================
kind                   what it is
=====================  =================================================================================================
orphan                 a shard without a receipt, sequences that no receipt names, a receipt or shard that is not the plan's
left-over              a `.partial` file of a write that was killed
upload                 a multipart upload that was never completed: listed nowhere, paid for all the same
lease                  of a harvest that has ended without giving it back
=====================  =================================================================================================

What the plan, the manifest or a receipt names is never touched; nor is anything that this tool does not write (`foreign`). Deleting takes
the store's lease first: nobody is writing what is deleted.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sae.errors import InputError
from sae.storage import Entry, Place, UnfinishedUpload
from sae.storage.lease import LEASE_PREFIX, hold_lease
from sae.storage.local import TEMPORARY_SUFFIX
from sae.store.manifest import MANIFEST_KEY, PLAN_KEY, read_manifest, read_plan, read_receipt, receipt_key, shard_key, tokens_key

CONCURRENT_REQUESTS = 16
LAYOUT = ("tokens/", "shards/", "receipts/")


@dataclass(frozen=True)
class Litter:
    """One thing that may go."""

    key: str
    kind: str
    bytes: int
    upload: UnfinishedUpload | None = None


@dataclass(frozen=True)
class Inspection:
    """What a store holds beside itself."""

    litter: Sequence[Litter] = field(default_factory=list)
    foreign: Sequence[Entry] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all litter."""
        return sum(litter.bytes for litter in self.litter)


def find_garbage(place: Place) -> Inspection:
    """Look through a store; changes nothing.

    Raises:
        InputError: there is no store here, or one whose plan or manifest cannot be read: then nothing can be called garbage.
    """
    if not place.exists(PLAN_KEY):
        raise InputError(f"{place.url} holds no store: check the path (plan.json is missing)")
    entries = place.entries(partial=True)
    needed = _needed(place, {entry.key for entry in entries})
    litter, foreign = [], []
    for entry in entries:
        if entry.key in needed:
            continue
        if entry.key.endswith(TEMPORARY_SUFFIX):
            litter.append(Litter(entry.key, "left-over", entry.bytes))
        elif entry.key.startswith(f"{LEASE_PREFIX}/"):
            litter.append(Litter(entry.key, "lease", entry.bytes))
        elif entry.key.startswith(LAYOUT):
            litter.append(Litter(entry.key, "orphan", entry.bytes))
        else:
            foreign.append(entry)
    litter += [Litter(upload.key, "upload", upload.bytes, upload) for upload in place.unfinished_uploads()]
    return Inspection(litter, foreign)


def delete_garbage(place: Place) -> Inspection:
    """Delete what `find_garbage` finds; returns what was deleted.

    Raises:
        InputError: as `find_garbage`.
        LeaseError: a harvest is filling this store.
    """
    find_garbage(place)  # a place that is no store gets no lease either
    with hold_lease(place) as lease:
        found = find_garbage(place)
        # The leases go by themselves: ours, and those that it took over, when it is given back.
        doomed = [litter for litter in found.litter if litter.kind != "lease"]
        lease.check()
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            list(pool.map(lambda litter: _delete(place, litter), doomed))
        others = [litter for litter in found.litter if litter.kind == "lease"][:-1]
    return Inspection([*doomed, *others], found.foreign)


def _delete(place: Place, litter: Litter) -> None:
    if litter.upload:
        place.abort_upload(litter.upload)
    else:
        place.delete(litter.key)


def _needed(place: Place, there: set[str]) -> set[str]:
    """The keys that the store consists of, or will when its harvest goes on."""
    if MANIFEST_KEY in there:
        plan = read_manifest(place).plan
        return {PLAN_KEY, MANIFEST_KEY, *_objects([(name, shard) for name in plan.hookpoints for shard in range(plan.num_shards)])}
    plan = read_plan(place)
    received = [(name, shard) for name in plan.hookpoints for shard in range(plan.num_shards) if receipt_key(name, shard) in there]
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        list(pool.map(lambda each: read_receipt(place, *each), received))  # one that cannot be read proves nothing: stop here
    return {PLAN_KEY, *_objects(received)}


def _objects(received: list[tuple[str, int]]) -> set[str]:
    return {key for name, shard in received for key in (receipt_key(name, shard), shard_key(name, shard), tokens_key(shard))}
