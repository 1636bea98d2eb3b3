"""The two products that sparse features need, and nothing dense between them.

Both run at the speed of memory: a fired coordinate costs one row of `d_in` numbers. They work on any device that torch's
embedding bag works on; the choice of blocks and thresholds around them was measured on CPUs.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


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

    It is the gradient of `sparse_dense_product` with respect to its values, and torch's backward of the embedding bag has it.
    """
    if len(column_ids) == 0:
        return left.new_zeros(0)
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return backward(left.contiguous(), right, column_ids, row_pointers[:-1], row_ids, 0)
