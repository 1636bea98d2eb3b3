"""Verification of a whole store: every object is read again and compared with what vouches for it.

Each object is vouched for by another: shards and sequences by the manifest, their rows by the plan and the sequences, receipts by the manifest's
entries and by the rows, all receipts together by the manifest's statistics, the manifest by its own digest and by the plan. What differs is
named, one line an object; nothing is repaired.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import UInt32

from sae.errors import FailureError, InputError
from sae.storage import Place
from sae.store.consistency import manifest_problem, plan_problem
from sae.store.encoding import RowSums
from sae.store.manifest import CONCURRENT_READS, MANIFEST_KEY, RECEIPTS_AT_ONCE, examine_manifest, fitting_receipt
from sae.store.reader import Store
from sae.store.records import Receipt, receipt_key, shard_key
from sae.store.schema import ShardRows
from sae.store.statistics import merge_statistics
from sae.store.writer import shard_columns

_TOLERANCE = 1e-4
"""Of sums, against the mean norm: another processor adds float32 numbers in another order."""


def verify_store(place: Place) -> Sequence[str]:
    """Read every object of a finished store; returns one line for each that is not what it should be.

    Raises:
        InputError: there is no finished store, or its manifest cannot be read: then nothing vouches for the rest.
    """
    manifest, problems = examine_manifest(place)
    if plan_problem(manifest.plan) or manifest_problem(manifest):
        return problems
    store = Store(place, manifest)
    return [*problems, *_receipt_problems(store), *_object_problems(store)]


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
                if isinstance(found, str):
                    unusable.append(found)
                    continue
                block.append(found)
                if found.entry() != entry:
                    path = store.place.path(receipt_key(hookpoint, number))
                    differing.append(f"{path} cannot be trusted, it is not what the manifest lists")
            if block:
                yield block


def _usable_receipt(store: Store, hookpoint: str, shard: int) -> Receipt | str:
    """A receipt, or what is wrong with it."""
    try:
        return fitting_receipt(store.place, store.plan, hookpoint, shard)
    except (InputError, FailureError) as error:
        reason, path = str(error), store.place.path(receipt_key(hookpoint, shard))
        return reason if reason.startswith(f"{path} cannot be trusted") else f"{path} cannot be trusted, {reason}"


def _object_problems(store: Store) -> list[str]:
    problems = []
    for shard in range(store.plan.num_shards):
        tokens = None
        try:
            tokens = store.sequence_tokens(shard)
        except (InputError, FailureError) as error:
            problems.append(str(error))
        for hookpoint in store.plan.hookpoints:
            try:
                problem = _rows_problem(store, hookpoint, shard, store.read_whole(hookpoint, shard), tokens)
            except (InputError, FailureError) as error:
                problem = str(error)
            if problem:
                problems.append(problem)
    return problems


def _rows_problem(store: Store, hookpoint: str, shard: int, rows: ShardRows, tokens: UInt32[np.ndarray, "sequence position"] | None) -> str | None:
    """Describe the fault in the rows of a shard that is what its receipt says, byte by byte."""
    path = store.place.path(shard_key(hookpoint, shard))
    if tokens is not None:
        columns = shard_columns(store.plan, shard, tokens)
        found = [np.concatenate(parts) for parts in zip(*rows.origins(), strict=True)] if rows.num_rows else [np.empty(0)] * 3
        for name, column, expected in zip(("sequence_id", "position", "token_id"), found, columns.origins, strict=True):
            if not np.array_equal(column, expected):
                return f"{path} cannot be trusted, its column {name} is not what plan and sequences say"
    receipt = _usable_receipt(store, hookpoint, shard)
    return None if isinstance(receipt, str) or _has_sums(rows, receipt) else f"{path} cannot be trusted, its rows do not add up to its receipt's sums"


def _has_sums(rows: ShardRows, receipt: Receipt) -> bool:
    sums, first = RowSums(rows.num_rows, len(receipt.sum)), 0
    for piece in rows.pieces(0, rows.num_rows):
        if not sums.add(first, piece):
            return False
        first += len(piece)
    norms = np.sqrt(sums.squared_norms)
    scale = 1 + float(norms.sum())
    close = bool(np.allclose(sums.total, receipt.sum, rtol=0, atol=_TOLERANCE * scale))
    return (
        close
        and math.isclose(scale - 1, receipt.sum_norm, rel_tol=_TOLERANCE)
        and math.isclose(float(sums.squared_norms.sum()), receipt.sum_squared_norm, rel_tol=_TOLERANCE)
    )
