"""A bfloat16 product finds which coordinates may fire, float32 decides: the float32 result at about half the price of its product.

Rounding x and the columns w of W_enc to bfloat16, of unit roundoff u = 2⁻⁹, changes x·w by no more than (2u + u²) ‖x‖ ‖w‖ (Cauchy and
Schwarz). What lies so near to the boundary is kept as a candidate; its value is then computed in float32, and decides. So nothing that
fires in float32 is missed, and nothing else is kept.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import BFloat16, Bool, Float
from torch import Tensor

from sae.kernels.products import sampled_product
from sae.kernels.sparse import SparseFeatures, entries_at, flat_nonzero
from sae.kernels.support import BLOCK_ROWS, joined, keep_topk, reaching

# Of ‖x‖ ‖w‖: the bound above, and 2 % for the norms' own rounding and for sums of up to a thousand products in float32.
MARGIN = 1.02 * 2**-8
# cuBLAS may add up partial sums in bfloat16 (torch's allow_bf16_reduced_precision_reduction, on by default): a few more roundings.
MARGIN_ON_CUDA = 3 * MARGIN
# Of the bias, which enters as the sum of two bfloat16 numbers.
BIAS_MARGIN = 2**-14


@torch.no_grad()
def support_relu_bfloat16(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> SparseFeatures:
    """The coordinates where (x - center) W_enc + b_enc > 0, with these values (no gradient)."""
    centered = x - center
    lengths, widths = torch.linalg.vector_norm(centered, dim=1), _column_norms(W_enc)
    bias = b_enc + BIAS_MARGIN * b_enc.abs()
    # One more column of x and row of W_enc add the margin of each coordinate within the product itself.
    rows, columns = _with_bias(centered, W_enc, bias, (_margin(x) * lengths, widths))
    found = [entries_at(pre, flat_nonzero(_positive(pre))) for pre in _blocks(rows, columns)]
    return _decide(joined(found, W_enc.shape[1]), centered, W_enc, b_enc, k=None)


@torch.no_grad()
def support_topk_bfloat16(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> SparseFeatures:
    """The k largest coordinates per row of (x - center) W_enc + b_enc that are > 0; of equal ones, those of lowest feature id."""
    centered = x - center
    lengths = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    slack = 2 * _margin(x) * _column_norms(W_enc).amax() * lengths + 2 * BIAS_MARGIN * b_enc.abs().amax()
    rows, columns = _with_bias(centered, W_enc, b_enc)
    # The product is rounded once more when it is stored: 2⁻⁷ of the bound is four times that rounding.
    found = [entries_at(pre, reaching(pre, k, part, 2**-7)) for pre, part in zip(_blocks(rows, columns), slack.split(BLOCK_ROWS), strict=True)]
    return _decide(joined(found, W_enc.shape[1]), centered, W_enc, b_enc, k)


def _decide(
    candidates: SparseFeatures,
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int | None,
) -> SparseFeatures:
    """Compute the candidates' values in float32 and keep what fires."""
    pointers, ids = candidates.row_pointers, candidates.feature_ids
    values = sampled_product(pointers, candidates.row_ids, ids, centered, transposed(W_enc)).add_(b_enc.index_select(0, ids))
    kept = flat_nonzero(values > 0 if k is None else keep_topk(pointers, candidates.row_ids, values, k))
    return SparseFeatures(
        torch.searchsorted(kept, pointers, out_int32=True), ids.index_select(0, kept), values.index_select(0, kept), candidates.num_features
    )


def transposed(weight: Float[Tensor, "rows columns"], block: int = 512) -> Float[Tensor, "columns rows"]:
    """The transpose, laid out anew; by blocks, so that what is read is still in cache when its neighbour is written."""
    result = weight.new_empty(weight.shape[1], weight.shape[0])
    for start in range(0, weight.shape[1], block):
        result[start : start + block].copy_(weight[:, start : start + block].t())
    return result


def _margin(x: Tensor) -> float:
    return MARGIN_ON_CUDA if x.is_cuda else MARGIN


def _column_norms(W_enc: Float[Tensor, "d_in d_sae"]) -> Float[Tensor, " d_sae"]:
    return W_enc.square().sum(0).sqrt_()  # torch's norm over the first axis of a wide matrix took five times as long


def _with_bias(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    *products: tuple[Float[Tensor, " batch"], Float[Tensor, " d_sae"]],
) -> tuple[BFloat16[Tensor, "batch d_more"], BFloat16[Tensor, "d_more d_sae"]]:
    """Factors whose product is x W_enc + b_enc plus the outer products given; the bias enters in two parts, as one has 8 bits only."""
    d_in, extra = x.shape[1], 2 + len(products)
    rows = torch.ones(len(x), d_in + extra, dtype=torch.bfloat16, device=x.device)
    columns = torch.empty(d_in + extra, W_enc.shape[1], dtype=torch.bfloat16, device=x.device)
    rows[:, :d_in], columns[:d_in] = x, W_enc
    columns[d_in] = b_enc
    columns[d_in + 1] = b_enc - columns[d_in].float()
    for place, (left, right) in enumerate(products, start=d_in + 2):
        rows[:, place], columns[place] = left, right
    return rows, columns


def _blocks(rows: BFloat16[Tensor, "batch d_more"], columns: BFloat16[Tensor, "d_more d_sae"]) -> Iterator[Tensor]:
    """The product, a block of rows at a time, in one buffer."""
    buffer = rows.new_empty(min(BLOCK_ROWS, len(rows)), columns.shape[1])
    for part in rows.split(BLOCK_ROWS):
        yield torch.mm(part, columns, out=buffer[: len(part)])


def _positive(pre: BFloat16[Tensor, "rows d_sae"]) -> Bool[Tensor, "rows d_sae"]:
    """Where a bfloat16 number is above 0: where its bits, read as an integer, are; numpy compares these six times as fast as torch."""
    bits = pre.view(torch.int16)
    return bits > 0 if bits.is_cuda else torch.from_numpy(np.greater(bits.numpy(), 0))
