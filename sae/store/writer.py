"""Writing one shard: which rows, in which order, then shard and receipt.

A shard is a function of the plan and its activations alone. Random choices come from the raw 64-bit output of PCG64, whose stream is
fixed for ever, and not from a distribution method of NumPy, which a new release may change.
"""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8, UInt32, UInt64
from torch import Tensor

from sae.corpus.packing import sequences_to_ipc
from sae.errors import InputError, PlanError
from sae.storage import Place, sha256_hex
from sae.store.encoding import EncodedShard, ShardColumns, encode_shard, encoded_bytes_at_most
from sae.store.manifest import read_receipt
from sae.store.records import Receipt, ShardEntry, StorePlan, receipt_key, shard_key, tokens_key
from sae.store.schema import TORCH_DTYPES, shard_schema

_DRAW, _ORDER = 0, 1  # independent streams: which tokens, and in which order


@dataclass(frozen=True)
class ShardReceipts:
    """Receipts of a shard that was written."""

    shard: int
    receipts: dict[str, Receipt]
    """One for each hookpoint."""
    written_bytes: int
    """Bytes put by this call; less than the receipts add up to where some were there already."""
    put_seconds: tuple[float, ...]
    """How long the store took for each shard object put by this call."""

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
    memory: UInt8[np.ndarray, " byte"] | None = None,
    promised: dict[str, ShardEntry] | None = None,
) -> ShardReceipts:
    """Write a shard of every hookpoint: its sequences, its rows, then its receipt. What has a receipt is left as it is.

    Args:
        place: of the store.
        plan: of the store.
        shard: its number.
        tokens: the sequences `plan.shard_range(shard)`.
        activations: of every hookpoint of the plan, at every token.
        memory: `encoding_bytes(plan)` to encode in, so that shard after shard takes no more; null allocates them.
        promised: what the manifest lists of the shard, by hookpoint, where a finished store lost it.

    Raises:
        PlanError: a lost shard that comes out otherwise than the manifest says; nothing of it is put.
        ConfigError: an activation that the store's dtype cannot hold.
        InputError: tokens or activations of another shape than the plan's.
    """
    _check_shapes(plan, shard, tokens, activations)
    receipts = {name: _receipt_there(place, name, shard) for name in sorted(plan.hookpoints)}
    token_data = sequences_to_ipc(tokens, plan.shard_range(shard)[0])
    tokens_sha256 = sha256_hex(token_data)
    written, seconds = 0, []
    missing = [name for name, receipt in receipts.items() if receipt is None]
    target = memory if memory is not None else np.empty(encoding_bytes(plan) if missing else 0, np.uint8)
    columns = shard_columns(plan, shard, tokens)
    for hookpoint in missing:
        rows = activations[hookpoint].detach().flatten(0, 1).to("cpu", TORCH_DTYPES[plan.dtype])
        encoded = encode_shard(shard_schema(hookpoint, plan.hookpoints[hookpoint], plan.dtype), plan.compression, columns, rows, target)
        receipt = _receipt(plan, columns, encoded, tokens_sha256)
        if promised and receipt.entry() != promised[hookpoint]:
            raise _differs(place, shard_key(hookpoint, shard))
        if not written:  # nothing is put before it is known that the activations can be stored
            place.put(tokens_key(shard), token_data)
            written += len(token_data)
        began = time.perf_counter()
        place.put(shard_key(hookpoint, shard), encoded.data)
        seconds.append(time.perf_counter() - began)
        receipts[hookpoint] = receipt
        place.put_sealed(receipt_key(hookpoint, shard), receipt.model_dump(mode="json"))
        written += receipt.bytes
    return ShardReceipts(shard, {name: receipt for name, receipt in receipts.items() if receipt}, written, tuple(seconds))


def encoding_bytes(plan: StorePlan) -> int:
    """Bytes that the largest encoded object of a shard needs at most."""
    rows = plan.sequences_per_shard * min(plan.context_length, plan.tokens_per_sequence or plan.context_length)
    return max(encoded_bytes_at_most(rows, d_in, plan.dtype) for d_in in plan.hookpoints.values())


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


def shard_columns(plan: StorePlan, shard: int, tokens: UInt32[np.ndarray, "sequence position"]) -> ShardColumns:
    """The rows of a shard, apart from their activations."""
    flat = selected_tokens(plan, shard, tokens)
    first, _ = plan.shard_range(shard)
    return ShardColumns(
        flat=flat,
        sequence_ids=(first + flat // plan.context_length).astype(np.uint64),
        positions=(flat % plan.context_length).astype(np.uint32),
        token_ids=tokens.reshape(-1)[flat],
    )


def _receipt_there(place: Place, hookpoint: str, shard: int) -> Receipt | None:
    return read_receipt(place, hookpoint, shard) if place.exists(receipt_key(hookpoint, shard)) else None


def _receipt(plan: StorePlan, columns: ShardColumns, encoded: EncodedShard, tokens_sha256: str) -> Receipt:
    sums = encoded.sums
    norms = np.sqrt(sums.squared_norms)
    return Receipt(
        rows=len(columns.flat),
        bytes=len(encoded.data),
        sha256=encoded.sha256,
        checksum=encoded.checksum,
        tokens_sha256=tokens_sha256,
        sum=sums.total.tolist(),
        sum_squared_norm=float(sums.squared_norms.sum()),
        sum_norm=float(norms.sum()),
        position_rows=np.bincount(columns.positions, minlength=plan.context_length).tolist(),
        position_sum_norm=np.bincount(columns.positions, weights=norms, minlength=plan.context_length).tolist(),
    )


def _differs(place: Place, key: str) -> PlanError:
    return PlanError(
        f"{place.path(key)} is lost, and what was harvested in its place has other bytes than the manifest lists (another processor or release "
        "rounds otherwise): copy it from where the store was copied from, or harvest again, into another place"
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
