"""Checks that the numbers of a plan, a receipt and a manifest are possible and fit together. Each returns a reason, or None.

A digest shows that a record is as it was written, but not that this tool wrote it. Readers take sizes of buffers and places of rows from the
records, so impossible ones are refused here, before anything is allocated or read.
"""

from sae.store.encoding import encoded_bytes_at_most
from sae.store.records import Receipt, ShardEntry, StoreManifest, StorePlan
from sae.store.schema import row_bytes

MOST_SHARDS = 10**7
"""Shards of a hookpoint: of 256 sequences of 256 tokens each, 655 billion tokens."""

MOST_TOKENS = 2**32
"""Tokens of a shard, and different tokens."""

MOST_WIDTH = 2**24
"""Elements of an activation."""


def plan_problem(plan: StorePlan) -> str | None:
    """Why there can be no store of this plan."""
    if plan.num_shards > MOST_SHARDS:
        return f"its plan has {plan.num_shards:,} shards, expected at most {MOST_SHARDS:,}"
    if plan.context_length * min(plan.sequences_per_shard, plan.num_sequences) > MOST_TOKENS:
        return f"its plan has shards of more than {MOST_TOKENS:,} tokens"
    if max(plan.hookpoints.values()) > MOST_WIDTH:
        return f"its plan has activations of more than {MOST_WIDTH:,} elements"
    if any(token >= MOST_TOKENS for token in plan.special_token_ids):
        return f"its plan has special tokens beyond {MOST_TOKENS - 1:,}"
    for hookpoint in plan.hookpoints:
        if any(part in ("", ".", "..") for part in hookpoint.split("/")) or "\\" in hookpoint or not hookpoint.isprintable():
            return f"its plan has the hookpoint {hookpoint[:80]!r}, which cannot be the name of a directory"
    return None


def receipt_problem(plan: StorePlan, hookpoint: str, shard: int, receipt: Receipt) -> str | None:
    """Why a receipt cannot be of this shard."""
    found = len(receipt.sum), len(receipt.position_rows), len(receipt.position_sum_norm)
    expected = plan.hookpoints[hookpoint], plan.context_length, plan.context_length
    if found != expected:
        return f"its sums are over {found} elements, expected {expected}"
    if sum(receipt.position_rows) != receipt.rows:
        return f"it has {receipt.rows:,} rows, at its positions {sum(receipt.position_rows):,}"
    return entry_problem(plan, hookpoint, shard, receipt)


def entry_problem(plan: StorePlan, hookpoint: str, shard: int, entry: ShardEntry) -> str | None:
    """Why a shard cannot have so many rows or bytes."""
    first, stop = plan.shard_range(shard)
    most = (stop - first) * min(plan.context_length, plan.tokens_per_sequence or plan.context_length)
    if entry.rows > most:
        return f"shard {shard} of {hookpoint} has {entry.rows:,} rows, its plan allows {most:,}"
    d_in = plan.hookpoints[hookpoint]
    least = max(1, entry.rows * row_bytes(d_in, plan.dtype)) if plan.compression == "none" else 1
    if not least <= entry.bytes <= encoded_bytes_at_most(entry.rows, d_in, plan.dtype):
        return f"shard {shard} of {hookpoint} has {entry.bytes:,} bytes, which {entry.rows:,} rows cannot take"
    return None


def manifest_problem(manifest: StoreManifest) -> str | None:
    """Why the parts of a manifest do not fit each other."""
    plan = manifest.plan
    if not plan.hookpoints.keys() == manifest.shards.keys() == manifest.statistics.keys():
        return "its shards or statistics are not of the hookpoints of its plan"
    sequences = None
    for hookpoint, entries in manifest.shards.items():
        if len(entries) != plan.num_shards:
            return f"it lists {len(entries):,} shards of {hookpoint}, its plan has {plan.num_shards:,}"
        reasons = (entry_problem(plan, hookpoint, shard, entry) for shard, entry in enumerate(entries))
        if reason := next(filter(None, reasons), None) or _repeated(hookpoint, entries) or _statistics_problem(manifest, hookpoint):
            return reason
        found = [(entry.rows, entry.tokens_sha256) for entry in entries]
        if found != (sequences := sequences or found):
            return "its hookpoints have other rows or sequences in the same shard"
    return None


def _repeated(hookpoint: str, entries: list[ShardEntry]) -> str | None:
    """Shards hold the numbers of their sequences, so that no two are equal but empty ones."""
    seen: dict[str, int] = {}
    for shard, entry in enumerate(entries):
        for digest in (entry.tokens_sha256, *([entry.sha256] if entry.rows else [])):
            if (first := seen.setdefault(digest, shard)) != shard:
                return f"its shards {first} and {shard} of {hookpoint} are the same"
    return None


def _statistics_problem(manifest: StoreManifest, hookpoint: str) -> str | None:
    plan, found, rows = manifest.plan, manifest.statistics[hookpoint], sum(entry.rows for entry in manifest.shards[hookpoint])
    if (len(found.mean), len(found.position_rows), len(found.position_mean_norm)) != (plan.hookpoints[hookpoint], *[plan.context_length] * 2):
        return f"its statistics of {hookpoint} are of other widths than its plan's"
    if not found.rows == sum(found.position_rows) == rows:
        return f"its statistics of {hookpoint} are over {found.rows:,} rows, its shards have {rows:,}"
    if min(found.mean_squared_norm, found.mean_norm, found.variance, *found.position_mean_norm) < 0:
        return f"its statistics of {hookpoint} have a negative norm or variance"
    return None
