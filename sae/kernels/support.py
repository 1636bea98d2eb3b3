"""Coordinates that fire, found block by block: all pre-activations of a batch are many times the batch itself."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.kernels.products import positive_entries
from sae.kernels.sparse import SparseFeatures, entries_at, flat_at_least, row_pointers_of

# A block has so many pre-activations, but no fewer rows: of a block with few, packing W_enc for the product is most of the work.
BLOCK_ENTRIES = 2**24
BLOCK_ROWS = 1024
PROBE_ROWS = 16
# Measured at d_in 512, d_sae 4096: from about this density on, a step in dense products costs no more than one in sparse products.
DENSE_ABOVE_DENSITY = 0.15


@torch.no_grad()
def support_relu(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> SparseFeatures:
    """The coordinates where (x - center) W_enc + b_enc > 0, with these values (no gradient)."""
    return _by_blocks(x - center, W_enc, b_enc, positive_entries)


@torch.no_grad()
def support_topk(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> SparseFeatures:
    """The k largest coordinates per row of (x - center) W_enc + b_enc that are > 0; of equal ones, those of lowest feature id."""
    return _by_blocks(x - center, W_enc, b_enc, lambda pre: entries_at(pre, largest_positive(pre, k)))


@torch.no_grad()
def probe_density(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> float:
    """Fraction of coordinates > 0 among rows spread evenly over the batch."""
    rows = x[:: max(1, len(x) // PROBE_ROWS)]
    return float((torch.addmm(b_enc, rows - center, W_enc) > 0).float().mean()) if len(rows) else 0.0


def largest_positive(pre: Float[Tensor, "rows d_sae"], k: int) -> Int[Tensor, " nnz"]:
    """Flat positions of the k largest positive entries per row."""
    candidates = flat_at_least(pre, _lower_bound(pre, min(k, pre.shape[1])))
    pointers = row_pointers_of(candidates, *pre.shape)
    return candidates[keep_topk(pointers, candidates // pre.shape[1], pre.view(-1)[candidates], k)]


def reaching(pre: Float[Tensor, "rows d_sae"], k: int, slack: Float[Tensor, "rows 1"], relative_slack: float) -> Int[Tensor, " nnz"]:
    """Flat positions of all entries that come up to the k-th largest of their row, or miss it by no more than a slack.

    A row with fewer than k positive entries is treated as if its k-th largest were 0.

    Args:
        pre: of any precision.
        k: as for TopK.
        slack: of each row, in float32.
        relative_slack: further slack, as a fraction of that k-th largest.
    """
    rows, width = pre.shape
    k = min(k, width)
    bound = _lower_bound(pre, k).float()
    candidates = flat_at_least(pre, (bound * (1 - relative_slack) - slack).to(pre.dtype))
    pointers, row_ids = row_pointers_of(candidates, rows, width), candidates // width
    values = pre.view(-1)[candidates].float()
    nearer = _padded(pointers, row_ids, values, k).topk(k).values[:, -1:].clamp_min(0.0)
    return candidates[values >= (nearer * (1 - relative_slack) - slack).view(-1)[row_ids]]


def keep_topk(row_pointers: Int[Tensor, " rows_plus_1"], row_ids: Int[Tensor, " nnz"], values: Float[Tensor, " nnz"], k: int) -> Bool[Tensor, " nnz"]:
    """Find the stored entries among the k largest positive ones of their row; of equal ones, those of lowest feature id."""
    padded = _padded(row_pointers, row_ids, values, k)
    smallest_kept = padded.topk(k, sorted=True).values[:, -1].clamp_min(torch.finfo(values.dtype).tiny)
    kept = values >= smallest_kept[row_ids]
    if int(kept.sum()) > int(row_pointers.diff().clamp_max(k).sum()):  # ties at the boundary: sort stably, so that the lowest ids win
        kept &= _ranks(padded)[row_ids, _places(row_pointers, row_ids)] < k
    return kept


def _places(row_pointers: Int[Tensor, " rows_plus_1"], row_ids: Int[Tensor, " nnz"]) -> Int[Tensor, " nnz"]:
    """Number each stored entry within its row, from 0."""
    return torch.arange(len(row_ids), device=row_ids.device) - row_pointers.long()[row_ids]


def _padded(
    row_pointers: Int[Tensor, " rows_plus_1"], row_ids: Int[Tensor, " nnz"], values: Float[Tensor, " nnz"], k: int
) -> Float[Tensor, "rows width"]:
    """The stored entries of each row side by side, at least k wide, filled up with minus infinity."""
    rows = len(row_pointers) - 1
    padded = values.new_full((rows, max(k, int(row_pointers.diff().max()) if rows else 0)), -torch.inf)
    padded[row_ids, _places(row_pointers, row_ids)] = values
    return padded


def _lower_bound(pre: Float[Tensor, "rows d_sae"], k: int) -> Float[Tensor, "rows 1"]:
    """A positive bound per row that at least min(k, number of positive entries) entries reach.

    The k-th largest of the maxima of disjoint groups is never above the k-th largest entry, and costs one pass to find: all
    entries from there on are the few candidates among which to choose.
    """
    rows, width = pre.shape
    groups = max(64, 1 << (2 * k - 1).bit_length())
    maxima = pre.view(rows, width // groups, groups).amax(1) if width and width % groups == 0 else pre  # a worker may hold no feature
    return maxima.topk(k, sorted=True).values[:, -1:].clamp_min(torch.finfo(pre.dtype).tiny)


def _ranks(padded: Float[Tensor, "rows width"]) -> Int[Tensor, "rows width"]:
    order = padded.sort(dim=1, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(1, order, torch.arange(padded.shape[1], device=padded.device).expand_as(order))


def _by_blocks(
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
) -> SparseFeatures:
    """Compute pre-activations a block of rows at a time and keep the row pointers, ids and values that `select` finds among them."""
    width = W_enc.shape[1]
    block = block_rows(width)
    buffer = centered.new_empty(min(block, len(centered)), width)
    found = [select(torch.addmm(b_enc, rows, W_enc, out=buffer[: len(rows)])) for rows in centered.split(block)]
    row_pointers, feature_ids, values = joined(found)
    return SparseFeatures(row_pointers, feature_ids, values, width)


def block_rows(width: int) -> int:
    """Rows of a block of pre-activations of so many features."""
    return max(BLOCK_ROWS, BLOCK_ENTRIES // max(width, 1))


def joined(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Row pointers of successive blocks of rows as one, followed by whatever else is known of the entries, end to end."""
    pointers, *others = zip(*blocks, strict=True)
    counts = torch.cat([each.diff() for each in pointers])
    row_pointers = torch.cat([counts.new_zeros(1), counts]).cumsum(0, dtype=torch.int32)
    return row_pointers, *(torch.cat(parts) for parts in others)
