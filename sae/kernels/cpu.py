"""Sparse features in torch operations: two products at the speed of memory, a fired coordinate costing one row of `d_in` numbers.

They work on any device that torch's embedding bag works on; `sae.kernels.products` chooses them wherever nothing better is to be had.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae.kernels.sparse import entries_at, flat_positive

with warnings.catch_warnings():  # the first sparse tensor of a process warns that torch's interface to them may change: said once, here, to nobody
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], torch.zeros(0, dtype=torch.int64), torch.zeros(0), (1, 1), check_invariants=False)


def sparse_dense_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    column_ids: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    dense: Float[Tensor, "columns d_in"],
) -> Float[Tensor, "rows d_in"]:
    """S D for a sparse S [rows columns] given by rows, and a dense D [columns d_in].

    A weighted sum of embeddings is exactly this product; torch's kernel for it was faster here than MKL's sparse product.
    """
    return embedding_bag(column_ids, dense, row_pointers, mode="sum", per_sample_weights=values, include_last_offset=True)


def sampled_product(
    row_pointers: Int[Tensor, " rows_plus_1"],
    row_ids: Int[Tensor, " nnz"],
    column_ids: Int[Tensor, " nnz"],
    left: Float[Tensor, "rows d_in"],
    right: Float[Tensor, "columns d_in"],
) -> Float[Tensor, " nnz"]:
    """(L R^T) at the given coordinates only: one inner product of length `d_in` per coordinate.

    It is the gradient of `sparse_dense_product` with respect to its values, and torch's backward of the embedding bag has it; on a
    CPU torch's sampled product does the same in two thirds of the time.
    """
    if len(column_ids) == 0:
        return left.new_zeros(0)
    if left.is_cuda:
        backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
        return backward(left.contiguous(), right, column_ids, row_pointers[:-1], row_ids, 0)
    shape = (len(left), len(right))
    at = torch.sparse_csr_tensor(row_pointers, column_ids.to(row_pointers.dtype), left.new_zeros(len(column_ids)), shape, check_invariants=False)
    return torch.sparse.sampled_addmm(at, left.contiguous(), right.t(), beta=0.0).values()


def positive_entries(
    pre: Float[Tensor, "rows d_sae"],
) -> tuple[Int[Tensor, " rows_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Row pointers, feature ids and values of the entries above 0."""
    return entries_at(pre, flat_positive(pre))
