"""The one place where the sparse operations find their device: Triton on CUDA where it can be had, torch operations elsewhere."""

import importlib.util
from types import ModuleType

from jaxtyping import Float, Int
from torch import Tensor

from sae.kernels import cpu

TRITON = importlib.util.find_spec("triton") is not None


def sparse_dense_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    column_ids: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    dense: Float[Tensor, "columns d_in"],
) -> Float[Tensor, "rows d_in"]:
    """S D for a sparse S [rows columns] given by rows, and a dense D [columns d_in]."""
    return _kernels(dense).sparse_dense_product(row_pointers, column_ids, values, dense)


def sampled_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    row_ids: Int[Tensor, " nnz"],
    column_ids: Int[Tensor, " nnz"],
    left: Float[Tensor, "rows d_in"],
    right: Float[Tensor, "columns d_in"],
) -> Float[Tensor, " nnz"]:
    """(L R^T) at the given coordinates only: one inner product of length `d_in` per coordinate."""
    return _kernels(left).sampled_product(row_pointers, row_ids, column_ids, left, right)


def positive_entries(
    pre: Float[Tensor, "rows d_sae"],
) -> tuple[Int[Tensor, " rows_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Row pointers, feature ids (ascending in each row) and values of the entries above 0."""
    return _kernels(pre).positive_entries(pre)


def _kernels(tensor: Tensor) -> ModuleType:
    if tensor.is_cuda and TRITON:
        from sae.kernels import triton  # imported where it is needed: machines without a GPU need not have it

        return triton
    return cpu
