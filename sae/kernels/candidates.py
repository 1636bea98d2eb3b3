"""A bfloat16 product finds which coordinates may fire, float32 decides: the float32 result at about half the price of its product.

Rounding x and the columns w of W_enc to bfloat16, of unit roundoff u = 2⁻⁹, changes x·w by no more than (2u + u²) ‖x‖ ‖w‖ (Cauchy and
Schwarz). What lies so near to the boundary is kept as a candidate; its value is then computed in float32, and decides. So nothing that
fires in float32 is missed, and nothing else is kept.
"""

from collections.abc import Iterator

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from sae.kernels.products import sampled_product
from sae.kernels.sparse import SparseFeatures, coordinates_at, flat_nonzero, flat_positive, row_ids_of
from sae.kernels.support import block_rows, joined, keep_topk, reaching

# Of ‖x‖ ‖w‖: the bound above, and 2 % for the norms' own rounding and for sums of up to a thousand products in float32.
MARGIN = 1.02 * 2**-8
# cuBLAS may add up partial sums in bfloat16 (torch's allow_bf16_reduced_precision_reduction, on by default): a few more roundings.
MARGIN_ON_CUDA = 3 * MARGIN
# Of the bias, which enters as the sum of two bfloat16 numbers.
BIAS_MARGIN = 2**-14


def fastest_dtype(device: str) -> torch.dtype:
    """Precision of the product that finds what may fire fastest: without instructions of its own a product in bfloat16 is slower than in float32."""
    return torch.bfloat16 if device != "cpu" or torch.cpu._is_avx512_bf16_supported() else torch.float32


@torch.no_grad()
def support_relu_bfloat16(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> SparseFeatures:
    """The coordinates where (x - center) W_enc + b_enc > 0, with these values (no gradient)."""
    centered = x - center
    directions = transposed(W_enc)
    lengths, widths = torch.linalg.vector_norm(centered, dim=1), torch.linalg.vector_norm(directions, dim=1)
    bias = b_enc + BIAS_MARGIN * b_enc.abs()
    # One more column of x and row of W_enc add the margin of each coordinate within the product itself.
    rows, columns = _with_bias(centered, W_enc, bias, (_margin(x) * lengths, widths))
    found = [coordinates_at(flat_positive(pre), *pre.shape) for pre in _blocks(rows, columns)]
    return _decide(joined(found), centered, directions, b_enc, k=None)


@torch.no_grad()
def support_topk_bfloat16(
    x: Float[Tensor, "batch d_in"], center: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> SparseFeatures:
    """The k largest coordinates per row of (x - center) W_enc + b_enc that are > 0; of equal ones, those of lowest feature id."""
    centered = x - center
    lengths = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    directions = transposed(W_enc)
    slack = 2 * _margin(x) * torch.linalg.vector_norm(directions, dim=1).amax() * lengths + 2 * BIAS_MARGIN * b_enc.abs().amax()
    rows, columns = _with_bias(centered, W_enc, b_enc)
    # The product is rounded once more when it is stored: 2⁻⁷ of the bound is four times that rounding.
    parts = zip(_blocks(rows, columns), slack.split(block_rows(W_enc.shape[1])), strict=True)
    found = [coordinates_at(reaching(pre, k, part, 2**-7), *pre.shape) for pre, part in parts]
    return _decide(joined(found), centered, directions, b_enc, k)


def _decide(
    candidates: tuple[Tensor, ...],
    centered: Float[Tensor, "batch d_in"],
    directions: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    k: int | None,
) -> SparseFeatures:
    """Compute the candidates' values in float32, given their row pointers, feature ids and W_enc by feature, and keep what fires."""
    pointers, ids = candidates
    row_ids = row_ids_of(pointers, len(ids))
    values = sampled_product(pointers, row_ids, ids, centered, directions).add_(b_enc.index_select(0, ids))
    kept = flat_positive(values) if k is None else flat_nonzero(keep_topk(pointers, row_ids, values, k))
    return SparseFeatures(
        torch.searchsorted(kept, pointers, out_int32=True), ids.index_select(0, kept), values.index_select(0, kept), len(directions)
    )


def transposed(weight: Float[Tensor, "rows columns"], block: int = 256) -> Float[Tensor, "columns rows"]:
    """The transpose, laid out anew; by blocks along the longer side, so that what is read is still in cache when its neighbour is written."""
    result = weight.new_empty(weight.shape[1], weight.shape[0])
    along = int(weight.shape[1] > weight.shape[0])
    for part, source in zip(result.split(block, 1 - along), weight.split(block, along), strict=True):
        part.copy_(source.t())
    return result


def _margin(x: Tensor) -> float:
    return MARGIN_ON_CUDA if x.is_cuda else MARGIN


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
    block = block_rows(columns.shape[1])
    buffer = rows.new_empty(min(block, len(rows)), columns.shape[1])
    for part in rows.split(block):
        yield torch.mm(part, columns, out=buffer[: len(part)])
