"""Reading a store while its harvest still writes it, in the batch order that the finished store has.

The order depends on the rows of every shard, and those are known before the subject model runs: they are the tokens that are not special, or as
many of them as the plan draws from each sequence. So batch n is the same rows as later; whoever wants it waits until the receipts of its shards
are there.
"""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from sae.corpus.manifest import SEQUENCES_PER_SHARD
from sae.corpus.packing import TokenCorpus
from sae.errors import CorruptObjectError, InputError, PlanError
from sae.storage import Place
from sae.store.manifest import MANIFEST_KEY, ShardEntry, StoreManifest, StorePlan, fitting_receipt, read_manifest, read_plan, receipt_key
from sae.store.reader import Store

POLL_SECONDS = (0.1, 2.0)  # between two looks for a receipt: at first, and after a while


class GrowingStore(Store):
    """A store that a harvest is filling, open for reading; may be used from several threads.

    Args:
        place: of the store; its plan must be there.
        shard_rows: rows of each shard, as `expected_rows` says.
        check: called before and during each wait; raises where there is nothing to wait for any more.
        waited: called after each wait with its seconds.

    Raises:
        InputError: there is no plan.
    """

    def __init__(
        self,
        place: Place,
        shard_rows: list[int] | None = None,
        check: Callable[[], None] = lambda: None,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._begin(place)
        self._plan, self._rows, self._check, self._waited = read_plan(place), shard_rows or [], check, waited
        self._receipts: dict[str, ShardEntry] = {}
        self._finished: StoreManifest | None = None

    @property
    def plan(self) -> StorePlan:
        """The plan it is made by."""
        return self._plan

    def expect(self, shard_rows: list[int]) -> None:
        """Say how many rows each shard will have, where the plan has to be read first."""
        self._rows = shard_rows

    @property
    def manifest(self) -> StoreManifest:
        """Return the manifest; waits for the end of the harvest."""
        if self._finished is None:
            self._wait_for(lambda: self.place.exists(MANIFEST_KEY), threading.Event())
            finished = read_manifest(self.place)
            if finished.plan.digest != self._plan.digest:
                raise PlanError(f"{self.place.url} was replaced by a store of another plan while it was read: run the same command again")
            self._finished = finished
        return self._finished

    def shard_rows(self, hookpoint: str) -> list[int]:
        """Rows that each shard has or will have."""
        self.width(hookpoint)
        return self._rows

    def wait(self, hookpoint: str, shards: Iterable[int], ended: threading.Event) -> bool:
        """Wait until the shards are written; False if `ended` was set before.

        Raises:
            CorruptObjectError: a shard has other rows than the plan says.
        """
        self._check()
        return all(self._wait_for(partial(self._find, hookpoint, shard), ended) for shard in shards)

    def entry(self, hookpoint: str, shard: int) -> ShardEntry:
        """Return the entry of a shard, from its receipt.

        Raises:
            InputError: it is not written yet.
        """
        if not self._find(hookpoint, shard):
            raise InputError(f"{self.place.path(receipt_key(hookpoint, shard))} is not there yet: wait for the harvest")
        return self._receipts[receipt_key(hookpoint, shard)]

    def _find(self, hookpoint: str, shard: int) -> bool:
        key = receipt_key(hookpoint, shard)
        if key in self._receipts:
            return True
        if not self.place.exists(key):
            return False
        receipt = fitting_receipt(self.place, self.plan, hookpoint, shard)
        if receipt.rows != self._rows[shard]:
            raise CorruptObjectError(
                f"{self.place.path(key)} says {receipt.rows:,} rows, its plan and corpus say {self._rows[shard]:,}: "
                "the corpus is not the one that was harvested; harvest again, into another place"
            )
        self._receipts[key] = receipt.entry()
        return True

    def _wait_for(self, there: Callable[[], bool], ended: threading.Event) -> bool:
        began, pause = time.monotonic(), POLL_SECONDS[0]
        while not ended.is_set():
            if there():
                seconds = time.monotonic() - began
                if seconds > POLL_SECONDS[0]:
                    self._waited(seconds)
                return True
            self._check()
            ended.wait(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
        return False


def expected_rows(plan: StorePlan, corpus: TokenCorpus) -> list[int]:
    """The rows of each shard of a store, before it is written.

    Raises:
        InputError: the corpus is not the plan's.
    """
    if corpus.manifest.digest != plan.corpus_digest:
        raise InputError(f"{corpus.place.url} is not the corpus of the store's plan: give the one that is being harvested")
    counts = np.empty(plan.num_sequences, np.int64)
    for start in range(0, plan.num_sequences, SEQUENCES_PER_SHARD):
        stop = min(start + SEQUENCES_PER_SHARD, plan.num_sequences)
        tokens = corpus.sequences("train", start, stop)
        counts[start:stop] = (~np.isin(tokens, np.array(plan.special_token_ids, np.uint32))).sum(axis=1)
    if plan.tokens_per_sequence is not None:
        np.minimum(counts, plan.tokens_per_sequence, out=counts)
    rows: list[int] = np.add.reduceat(counts, range(0, plan.num_sequences, plan.sequences_per_shard)).tolist()
    return rows
