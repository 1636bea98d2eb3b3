"""The same products for NVIDIA GPUs, in Triton; checked on any machine by Triton's interpreter against the dense products.

No atomic additions: every number is summed by one program in one order, so that two runs are equal to the bit.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

COLUMNS = 512  # of d_in that one program sums at a time
ENTRIES = 16  # fired coordinates that one program of the sampled product takes


@triton.jit  # type: ignore[untyped-decorator]
def _sparse_dense_kernel(row_pointers, column_ids, values, dense, out, d_in, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d_in
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for place in range(tl.load(row_pointers + row), tl.load(row_pointers + row + 1)):
        column_id = tl.load(column_ids + place).to(tl.int64)
        total += tl.load(values + place) * tl.load(dense + column_id * d_in + columns, mask=inside, other=0.0)
    tl.store(out + row * d_in + columns, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _sampled_kernel(row_ids, column_ids, left, right, out, nnz, d_in, ENTRIES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913, PLR0917
    places = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    exists = places < nnz
    rows = tl.load(row_ids + places, mask=exists, other=0).to(tl.int64)
    features = tl.load(column_ids + places, mask=exists, other=0).to(tl.int64)
    total = tl.zeros((ENTRIES,), dtype=tl.float32)
    for start in range(0, d_in, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = exists[:, None] & (columns < d_in)[None, :]
        a = tl.load(left + rows[:, None] * d_in + columns[None, :], mask=inside, other=0.0)
        b = tl.load(right + features[:, None] * d_in + columns[None, :], mask=inside, other=0.0)
        total += tl.sum(a * b, axis=1)
    tl.store(out + places, total, mask=exists)


@triton.jit  # type: ignore[untyped-decorator]
def _count_kernel(pre, counts, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        count += (tl.load(pre + row * width + columns, mask=columns < width, other=0.0) > 0).to(tl.int32)
    tl.store(counts + row, tl.sum(count, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _compact_kernel(pre, row_pointers, feature_ids, values, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(row_pointers + row)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        found = tl.load(pre + row * width + columns, mask=columns < width, other=0.0)
        fires = (found > 0).to(tl.int32)
        places = place + tl.cumsum(fires, axis=0) - 1
        tl.store(feature_ids + places, columns, mask=found > 0)
        tl.store(values + places, found, mask=found > 0)
        place += tl.sum(fires, axis=0)


def sparse_dense_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    column_ids: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    dense: Float[Tensor, "columns d_in"],
) -> Float[Tensor, "rows d_in"]:
    """S D for a sparse S [rows columns] given by rows, and a dense D [columns d_in]."""
    dense, d_in, rows = dense.contiguous(), dense.shape[1], len(row_pointers) - 1
    out = dense.new_empty(rows, d_in)
    if out.numel():
        block = _block(d_in)
        _sparse_dense_kernel[(rows, triton.cdiv(d_in, block))](row_pointers, column_ids, values, dense, out, d_in, BLOCK=block)
    return out


def sampled_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    row_ids: Int[Tensor, " nnz"],
    column_ids: Int[Tensor, " nnz"],
    left: Float[Tensor, "rows d_in"],
    right: Float[Tensor, "columns d_in"],
) -> Float[Tensor, " nnz"]:
    """(L R^T) at the given coordinates only: one inner product of length `d_in` per coordinate."""
    out = left.new_empty(len(column_ids))
    if len(out):
        left, right, d_in = left.contiguous(), right.contiguous(), left.shape[1]
        grid = (triton.cdiv(len(out), ENTRIES),)
        _sampled_kernel[grid](row_ids, column_ids, left, right, out, len(out), d_in, ENTRIES=ENTRIES, BLOCK=min(128, _block(d_in)))
    return out


def positive_entries(
    pre: Float[Tensor, "rows d_sae"],
) -> tuple[Int[Tensor, " rows_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Row pointers, feature ids and values of the entries above 0: two passes, the first of which counts."""
    rows, width = pre.shape
    pointers = torch.zeros(rows + 1, dtype=torch.int32, device=pre.device)
    if pre.numel() == 0:
        return pointers, pointers.new_empty(0), pre.new_empty(0)
    _count_kernel[(rows,)](pre, pointers[1:], width, BLOCK=1024)
    pointers = pointers.cumsum(0, dtype=torch.int32)
    nnz = int(pointers[-1])
    feature_ids, values = pointers.new_empty(nnz), pre.new_empty(nnz)
    _compact_kernel[(rows,)](pre, pointers, feature_ids, values, width, BLOCK=1024)
    return pointers, feature_ids, values


def _block(d_in: int) -> int:
    return min(COLUMNS, triton.next_power_of_2(d_in))
