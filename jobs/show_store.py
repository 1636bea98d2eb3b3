"""Description of a store for `monosem show`: its size, its activations, and the holder of its lease."""

import itertools
from collections.abc import Sequence

from sae.storage import Place
from sae.storage.lease import read_lease
from sae.store import (
    MANIFEST_KEY,
    HookpointStatistics,
    StorePlan,
    fitting_receipt,
    merge_statistics,
    missing_shards,
    read_manifest,
    read_plan,
)
from sae.store.schema import TORCH_DTYPES

BLOCKS = "▁▂▃▄▅▆▇█"
COLUMNS = 64
SAMPLED_RECEIPTS = 32  # of an unfinished store: enough for a look


def show_store(place: Place) -> str:
    """A store: its plan, rows, bytes and norms by hookpoint; or how far an unfinished one is, and who is filling it."""
    if not place.exists(MANIFEST_KEY):
        return _unfinished(place)
    manifest = read_manifest(place)
    plan = manifest.plan
    lines = [f"a store of {len(plan.hookpoints)} hookpoint(s)", *_plan_lines(plan), f"  digest    {manifest.digest}"]
    for hookpoint, entries in manifest.shards.items():
        size = f"{_size(sum(entry.bytes for entry in entries))} in {len(entries)} shards"
        lines += _hookpoint_lines(plan, hookpoint, size, sum(entry.bytes for entry in entries), manifest.statistics[hookpoint])
    return "\n".join(lines)


def _unfinished(place: Place) -> str:
    plan = read_plan(place)
    missing = set(missing_shards(place, plan))
    whole = [shard for shard in range(plan.num_shards) if shard not in missing]
    filled = len(whole) * COLUMNS // plan.num_shards
    lease = read_lease(place)
    held = f"being filled by {lease}" if lease and not lease.gone() else "nobody is filling it: run its harvest again to continue"
    lines = [
        f"an unfinished store, {len(whole)} of {plan.num_shards} shards",
        *_plan_lines(plan),
        f"  progress  {'█' * filled}{'·' * (COLUMNS - filled)} {100 * len(whole) // plan.num_shards} %; {held}",
    ]
    sample = whole[:: max(1, len(whole) // SAMPLED_RECEIPTS)][:SAMPLED_RECEIPTS]
    for hookpoint in sorted(plan.hookpoints):
        receipts = [fitting_receipt(place, plan, hookpoint, shard) for shard in sample]
        if sum(receipt.rows for receipt in receipts):
            size = sum(receipt.bytes for receipt in receipts)
            lines += _hookpoint_lines(plan, hookpoint, f"{_size(size)} in {len(sample)} shards looked at", size, merge_statistics([receipts]))
    return "\n".join(lines)


def _plan_lines(plan: StorePlan) -> list[str]:
    kept = "all tokens" if plan.tokens_per_sequence is None else f"{plan.tokens_per_sequence} tokens"
    subject = plan.subject if plan.subject.isprintable() else ascii(plan.subject)  # a terminal obeys some characters
    return [
        f"  subject   {subject} (sha256 {plan.subject_digest[:12]})",
        f"  text      {plan.num_sequences:,} sequences of {plan.context_length} tokens, {kept} of each; corpus {plan.corpus_digest[:12]}",
        f"  plan      {plan.digest}",
    ]


def _hookpoint_lines(plan: StorePlan, hookpoint: str, size: str, num_bytes: int, statistics: HookpointStatistics) -> list[str]:
    d_in = plan.hookpoints[hookpoint]
    raw = statistics.rows * (16 + d_in * TORCH_DTYPES[plan.dtype].itemsize)
    compression = "not compressed" if plan.compression == "none" else f"{plan.compression}, {raw / num_bytes:.1f} : 1"
    return [
        f"  {hookpoint}: {statistics.rows:,} activations of {d_in} {plan.dtype}",
        f"    {size}, {compression}",
        f"    norm: mean {statistics.mean_norm:.4g}, quadratic mean {statistics.mean_squared_norm**0.5:.4g}; variance {statistics.variance:.4g}",
        *(f"    {line}" for line in position_chart(statistics.position_rows, statistics.position_mean_norm)),
    ]


def position_chart(rows: Sequence[int], mean_norm: Sequence[float]) -> list[str]:
    """The mean norm along the positions of a sequence as one line of blocks over its axis; a blank where no row is.

    A column stands for several positions where they are more than `COLUMNS`. The lowest block is the smallest mean, the full one the largest.
    """
    edges = [column * len(rows) // min(COLUMNS, len(rows)) for column in range(min(COLUMNS, len(rows)) + 1)]
    parts = [range(first, last) for first, last in itertools.pairwise(edges)]
    counts = [sum(rows[at] for at in part) for part in parts]
    means = [sum(rows[at] * mean_norm[at] for at in part) / max(1, count) for part, count in zip(parts, counts, strict=True)]
    seen = [mean for mean, count in zip(means, counts, strict=True) if count]
    low, high = min(seen), max(seen)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0
    blocks = [BLOCKS[round((mean - low) / step)] if count else " " for mean, count in zip(means, counts, strict=True)]
    axis = "0" + str(len(rows) - 1).rjust(len(parts) - 1)
    return [f"mean norm by position, {low:.4g} (▁) to {high:.4g} (█):", f"  {''.join(blocks)}", f"  {axis}"]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
