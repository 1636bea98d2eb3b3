"""Unused files of a store: found, counted, and deleted on request, each only where plan, receipts or manifest explain why it is unused.

=====================  =================================================================================================
kind                   what it is
=====================  =================================================================================================
orphan                 of a finished store whose manifest is proven, agrees with the receipts, and whose objects are all there: a shard,
                       sequences or a receipt that the manifest does not name
left-over              a `.partial` file of a write that was killed
upload                 a multipart upload that was never completed: listed nowhere, paid for all the same
lease                  of a harvest that has ended without giving it back
=====================  =================================================================================================

Absence proves nothing: a listing may miss objects, and a plan may have been copied from elsewhere. So a shard that the plan of an unfinished
store knows is never deleted, with or without a receipt: the harvest writes it again. What looks like a part of a store and is explained by
nothing (`unexplained`) stops the deletion of everything. What this tool does not write (`foreign`) is left alone. Deleting takes the store's
lease first: nobody is writing what is deleted.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from sae.errors import InputError
from sae.storage import Entry, Place, UnfinishedUpload
from sae.storage.lease import LEASE_PREFIX, hold_lease
from sae.storage.local import TEMPORARY_NAME, TEMPORARY_SUFFIX
from sae.store.lost import lost_receipts
from sae.store.manifest import MANIFEST_KEY, PLAN_KEY, fitting_receipt, read_manifest, read_plan, receipt_key, shard_key, tokens_key
from sae.store.records import StorePlan

CONCURRENT_REQUESTS = 16
LAYOUT = ("tokens/", "shards/", "receipts/")
_LEASE = re.compile(rf"{LEASE_PREFIX}/[0-9]{{6,}}\.json")


@dataclass(frozen=True)
class Litter:
    """One thing that may go."""

    key: str
    kind: str
    bytes: int
    upload: UnfinishedUpload | None = None


@dataclass(frozen=True)
class Unexplained:
    """An object that may be a part of the store or not."""

    key: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Inspection:
    """Files of a store besides those that it consists of."""

    litter: Sequence[Litter] = field(default_factory=list)
    foreign: Sequence[Entry] = field(default_factory=list)
    unexplained: Sequence[Unexplained] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Total size of the unused files, in bytes."""
        return sum(litter.bytes for litter in self.litter)


def find_garbage(place: Place) -> Inspection:
    """Look through a store; changes nothing.

    Raises:
        InputError: there is no store here, or one whose plan or manifest cannot be read: then nothing can be called garbage.
        CorruptObjectError: plan, manifest or a receipt were changed after they were written.
        StorageError: the storage cannot be listed.
    """
    if not place.exists(PLAN_KEY):
        raise InputError(f"{place.url} holds no store: check the path (plan.json is missing)")
    plan, finished = read_plan(place), place.exists(MANIFEST_KEY)
    lost = lost_receipts(place, plan)  # proves manifest and receipts, too
    entries = place.entries(partial=True)
    parts = {PLAN_KEY, MANIFEST_KEY, *_parts(plan)}
    litter, foreign, unexplained = list[Litter](), list[Entry](), list[Unexplained]()
    for entry in entries:
        if entry.key in parts:
            continue
        if TEMPORARY_NAME.fullmatch(entry.key) and _written(entry.key) in parts:
            litter.append(Litter(entry.key, "left-over", entry.bytes))
        elif _LEASE.fullmatch(entry.key):
            litter.append(Litter(entry.key, "lease", entry.bytes))
        elif not entry.key.startswith(LAYOUT):
            foreign.append(entry)
        else:
            unexplained.append(Unexplained(entry.key, entry.bytes, "the plan of this unfinished store knows no such shard"))
    if finished and unexplained and (reason := _doubt(place, plan, lost)):
        unexplained = [replace(each, reason=reason) for each in unexplained]
    elif finished:
        litter, unexplained = [*litter, *(Litter(each.key, "orphan", each.bytes) for each in unexplained)], []
    litter += [Litter(upload.key, "upload", upload.bytes, upload) for upload in place.unfinished_uploads()]
    return Inspection(litter, foreign, unexplained)


def delete_garbage(place: Place) -> Inspection:
    """Delete what `find_garbage` finds; returns what was deleted.

    Raises:
        InputError: an object is not explained, and nothing was deleted; or as `find_garbage`.
        CorruptObjectError, StorageError: as `find_garbage`.
        LeaseError: a harvest is filling this store.
    """
    _refuse_unexplained(place, find_garbage(place))  # a place that is no store gets no lease either
    with hold_lease(place) as lease:
        found = find_garbage(place)
        _refuse_unexplained(place, found)
        # The leases go by themselves: ours, and those that it took over, when it is given back.
        doomed = [litter for litter in found.litter if litter.kind != "lease"]
        lease.check()
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            list(pool.map(lambda litter: _delete(place, litter), doomed))
        others = [litter for litter in found.litter if litter.kind == "lease"][:-1]
    return Inspection([*doomed, *others], found.foreign)


def _refuse_unexplained(place: Place, found: Inspection) -> None:
    if found.unexplained:
        first, number = found.unexplained[0], len(found.unexplained)
        raise InputError(
            f"nothing was deleted in {place.url}: {number:,} object{'s' if number > 1 else ''} of {sum(each.bytes for each in found.unexplained):,} "
            f"bytes may be a part of the store or not. The first is {first.key}: {first.reason}. Check that plan.json and manifest.json are this "
            "store's own, or move these objects away by hand"
        )


def _doubt(place: Place, plan: StorePlan, lost: list[str]) -> str | None:
    """Why a manifest may be of another store, so that what it does not name may still be of this one; None where nothing says so."""
    if lost:
        return f"the manifest does not name it, and names {len(lost):,} shards that are not here whole (the first: {lost[0]})"
    listed = [(name, shard, entry) for name, entries in read_manifest(place).shards.items() for shard, entry in enumerate(entries)]
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        for (name, shard, entry), receipt in zip(listed, pool.map(lambda each: fitting_receipt(place, plan, *each[:2]), listed), strict=True):
            if receipt.entry() != entry:
                return f"the manifest does not name it, and {receipt_key(name, shard)} is of another shard than the manifest's"
    return None


def _written(temporary: str) -> str:
    """The key of the object that a temporary file was to become."""
    return temporary.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[0]


def _delete(place: Place, litter: Litter) -> None:
    if litter.upload:
        place.abort_upload(litter.upload)
    else:
        place.delete(litter.key)


def _parts(plan: StorePlan) -> set[str]:
    """The keys that a store of this plan consists of, or will when its harvest is finished."""
    every = [(name, shard) for name in plan.hookpoints for shard in range(plan.num_shards)]
    return {key for name, shard in every for key in (receipt_key(name, shard), shard_key(name, shard), tokens_key(shard))}
