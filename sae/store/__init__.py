"""The activation store: Arrow shards in object storage, each with a receipt, and a manifest that is written last.

This is what the rest of the code imports. Apart from it only a harvest (`harvest`), a store that is being filled (`growing`) and, for the order of
batches, rows and open shards (`schema`, `shards`) are used from outside.
"""

from sae.store.from_vectors import write_store
from sae.store.garbage import Inspection, delete_garbage, find_garbage
from sae.store.manifest import (
    MANIFEST_KEY,
    PLAN_KEY,
    StoreManifest,
    StorePlan,
    fitting_receipt,
    missing_shards,
    read_manifest,
    read_plan,
    start_store,
)
from sae.store.reader import Store
from sae.store.statistics import HookpointStatistics, merge_statistics
from sae.store.verification import verify_store
from sae.store.writer import write_shard

__all__ = [
    "MANIFEST_KEY",
    "PLAN_KEY",
    "HookpointStatistics",
    "Inspection",
    "Store",
    "StoreManifest",
    "StorePlan",
    "delete_garbage",
    "find_garbage",
    "fitting_receipt",
    "merge_statistics",
    "missing_shards",
    "read_manifest",
    "read_plan",
    "start_store",
    "verify_store",
    "write_shard",
    "write_store",
]
