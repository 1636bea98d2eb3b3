"""Writing one shard: which rows, in which order, then shard and receipt.

A shard is a function of the plan and its activations alone. Random choices come from the raw 64-bit output of PCG64, whose stream is
fixed for ever, and not from a distribution method of NumPy, which a new release may change.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import xxhash
from jaxtyping import Float, Int64, Shaped, UInt32, UInt64
from torch import Tensor

from sae.corpus.packing import sequences_to_ipc
from sae.errors import InputError
from sae.storage import Place, sha256_hex
from sae.store.manifest import Receipt, StorePlan, receipt_key, shard_key, tokens_key
from sae.store.schema import rows_to_ipc, shard_schema, to_stored_dtype

_DRAW, _ORDER = 0, 1  # independent streams: which tokens, and in which order
_ROWS_IN_CACHE = 512  # summing in blocks that fit the processor's cache is four times faster


@dataclass(frozen=True)
class ShardReceipts:
    """What writing a shard left behind."""

    shard: int
    receipts: dict[str, Receipt]
    """One for each hookpoint."""
    written_bytes: int
    """Bytes put by this call; less than the receipts add up to where some were there already."""

    @property
    def rows(self) -> int:
        """Activations of the shard, over all hookpoints."""
        return sum(receipt.rows for receipt in self.receipts.values())


def write_shard(
    place: Place,
    plan: StorePlan,
    shard: int,
    tokens: UInt32[np.ndarray, "sequence position"],
    activations: dict[str, Float[Tensor, "sequence position _"]],
) -> ShardReceipts:
    """Write a shard of every hookpoint: its sequences, its rows, then its receipt. What has a receipt is left as it is.

    Args:
        place: of the store.
        plan: of the store.
        shard: its number.
        tokens: the sequences `plan.shard_range(shard)`.
        activations: of every hookpoint of the plan, at every token.

    Raises:
        ConfigError: an activation that the store's dtype cannot hold.
        InputError: tokens or activations of another shape than the plan's.
    """
    _check_shapes(plan, shard, tokens, activations)
    first, _ = plan.shard_range(shard)
    written = 0
    token_data = sequences_to_ipc(tokens, first)
    tokens_sha256 = sha256_hex(token_data)
    if not all(place.exists(receipt_key(hookpoint, shard)) for hookpoint in plan.hookpoints):
        place.put(tokens_key(shard), token_data)
        written += len(token_data)
    flat = selected_tokens(plan, shard, tokens)
    sequence_ids = (first + flat // plan.context_length).astype(np.uint64)
    positions = (flat % plan.context_length).astype(np.uint32)
    receipts = {}
    for hookpoint in sorted(plan.hookpoints):
        if place.exists(receipt_key(hookpoint, shard)):
            receipts[hookpoint] = Receipt.parse(place.get_json(receipt_key(hookpoint, shard)))
            continue
        rows = activations[hookpoint].detach().flatten(0, 1)[torch.from_numpy(flat)]
        rows = to_stored_dtype(rows, plan.dtype, hookpoint).cpu()
        schema = shard_schema(hookpoint, plan.hookpoints[hookpoint], plan.dtype)
        data = rows_to_ipc(schema, sequence_ids, positions, tokens.reshape(-1)[flat], rows)
        receipt = _receipt(plan, rows, positions, data, tokens_sha256)
        place.put(shard_key(hookpoint, shard), data)
        place.put_json(receipt_key(hookpoint, shard), receipt.model_dump(mode="json"))
        receipts[hookpoint] = receipt
        written += len(data)
    return ShardReceipts(shard, receipts, written)


def selected_tokens(plan: StorePlan, shard: int, tokens: UInt32[np.ndarray, "sequence position"]) -> Int64[np.ndarray, " row"]:
    """The tokens of a shard that become rows, in the order of its rows, as indices into the flattened `tokens`.

    Special tokens never do. With `tokens_per_sequence` set, that many others are drawn from each sequence without replacement, as
    Towards Monosemanticity does with 250 tokens of each context.

    Reference: Bricken et al. 2023, appendix "Advice for training sparse autoencoders".
    """
    eligible = ~np.isin(tokens, np.array(plan.special_token_ids, dtype=np.uint32))
    if plan.tokens_per_sequence is not None:
        keys = _random_numbers(plan, shard, _DRAW, tokens.size).reshape(tokens.shape)
        # Ordering by (not eligible, key) puts each sequence's drawn tokens first.
        order = np.lexsort((keys, ~eligible), axis=1)
        drawn = np.zeros_like(eligible)
        np.put_along_axis(drawn, order[:, : plan.tokens_per_sequence], values=True, axis=1)
        eligible &= drawn
    flat = np.flatnonzero(eligible)
    return flat[np.argsort(_random_numbers(plan, shard, _ORDER, len(flat)), kind="stable")]


def _random_numbers(plan: StorePlan, shard: int, stream: int, count: int) -> UInt64[np.ndarray, " count"]:
    numbers: np.ndarray = np.random.PCG64(np.random.SeedSequence([plan.seed, shard, stream])).random_raw(count)
    return numbers


def _receipt(plan: StorePlan, rows: Float[Tensor, "row d_in"], positions: UInt32[np.ndarray, " row"], data: pa.Buffer, tokens_sha256: str) -> Receipt:
    total = np.zeros(rows.shape[1])
    squared_norms = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_IN_CACHE):
        # NumPy and not torch: its order of summation does not depend on the number of threads.
        values = rows[start : start + _ROWS_IN_CACHE].to(torch.float64).numpy()
        np.einsum("ij,ij->i", values, values, out=squared_norms[start : start + _ROWS_IN_CACHE])
        total += values.sum(axis=0)
    norms = np.sqrt(squared_norms)
    return Receipt(
        rows=len(rows),
        bytes=len(data),
        sha256=sha256_hex(data),
        checksum=xxhash.xxh3_128_hexdigest(data),
        tokens_sha256=tokens_sha256,
        sum=total.tolist(),
        sum_squared_norm=float(squared_norms.sum()),
        sum_norm=float(norms.sum()),
        position_rows=np.bincount(positions, minlength=plan.context_length).tolist(),
        position_sum_norm=np.bincount(positions, weights=norms, minlength=plan.context_length).tolist(),
    )


def _check_shapes(plan: StorePlan, shard: int, tokens: Shaped[np.ndarray, "..."], activations: dict[str, Shaped[Tensor, "..."]]) -> None:
    first, last = plan.shard_range(shard)
    expected = (last - first, plan.context_length)
    if tokens.shape != expected:
        raise InputError(f"shard {shard} was given tokens of shape {tokens.shape}, expected {expected}: the corpus is not the plan's")
    for hookpoint, d_in in plan.hookpoints.items():
        found = tuple(activations[hookpoint].shape) if hookpoint in activations else None
        if found != (*expected, d_in):
            raise InputError(f"shard {shard} was given activations of shape {found} at {hookpoint}, expected {(*expected, d_in)}: see the plan")
