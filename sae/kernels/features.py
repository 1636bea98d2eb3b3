"""The doors of this package: differentiable encoding and decoding that touch only what fired."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae.kernels.candidates import support_relu_bfloat16, support_topk_bfloat16, transposed
from sae.kernels.dense import dense_relu_encode
from sae.kernels.products import sampled_product, sparse_dense_product
from sae.kernels.sparse import Features, SparseFeatures
from sae.kernels.support import DENSE_ABOVE_DENSITY, probe_density, support_relu, support_topk


class EncodeAt(torch.autograd.Function):
    """Values at given coordinates; the gradient is exact where the coordinates hold all that fired."""

    @staticmethod
    def forward(ctx, x, center, W_enc, b_enc, support):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        ctx.save_for_backward(x, center, W_enc)
        ctx.support = support
        return support.values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        x, center, W_enc = ctx.saved_tensors
        support, by_feature = ctx.support, ctx.support.by_feature
        reordered = gradient.index_select(0, by_feature.order)
        W_gradient = sparse_dense_product(by_feature.feature_pointers, by_feature.row_ids, reordered, x - center)
        b_gradient = gradient.new_zeros(support.num_features).index_add_(0, support.feature_ids, gradient)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = sparse_dense_product(support.row_pointers, support.feature_ids, gradient, transposed(W_enc))
        # Laid out as W_enc is: fused Adam walks over memory, not over coordinates.
        return x_gradient, -(W_enc @ b_gradient), transposed(W_gradient), b_gradient, None


class DecodeSparse(torch.autograd.Function):
    """A sparse product; feature gradients at fired coordinates only, the weight gradient as a transposed sparse product."""

    @staticmethod
    def forward(ctx, values, W_dec, features):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        ctx.save_for_backward(values, W_dec)
        ctx.features = features
        return sparse_dense_product(features.row_pointers, features.feature_ids, values, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        values, W_dec = ctx.saved_tensors
        features = ctx.features
        values_gradient = W_gradient = None
        if ctx.needs_input_grad[0]:
            values_gradient = sampled_product(features.row_pointers, features.row_ids, features.feature_ids, gradient, W_dec)
        if ctx.needs_input_grad[1]:
            by_feature = features.by_feature
            W_gradient = sparse_dense_product(by_feature.feature_pointers, by_feature.row_ids, values.index_select(0, by_feature.order), gradient)
        return values_gradient, W_gradient, None


def encode_at(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    support: SparseFeatures,
) -> SparseFeatures:
    """((x - center) W_enc + b_enc) at the coordinates of `support`, differentiable.

    `support` must hold these values already, as the functions of `sae.kernels.support` return it.
    """
    return support.with_values(EncodeAt.apply(x, center, W_enc, b_enc, support))


def decode_sparse(features: SparseFeatures, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "batch d_in"]:
    """The product f W_dec for sparse f, differentiable with respect to its values and W_dec."""
    return DecodeSparse.apply(features.values, W_dec, features.detach())


def decode_features(features: Features, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "batch d_in"]:
    """The product f W_dec, whichever way f is held."""
    return decode_sparse(features, W_dec) if isinstance(features, SparseFeatures) else features @ W_dec


def encode_relu(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    dtype: torch.dtype = torch.float32,
) -> Features:
    """relu((x - center) W_enc + b_enc): sparse, or dense where a probe of the batch finds most of the work needed anyway.

    With `dtype` bfloat16 a product of that precision finds the candidates, which float32 decides: `sae.kernels.candidates`.
    """
    if probe_density(x, center, W_enc, b_enc) > DENSE_ABOVE_DENSITY:
        return dense_relu_encode(x, center, W_enc, b_enc)
    support = support_relu_bfloat16 if dtype == torch.bfloat16 else support_relu
    return encode_at(x, center, W_enc, b_enc, support(x, center, W_enc, b_enc))


def encode_topk(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype = torch.float32,
) -> SparseFeatures:
    """The k largest entries per row of relu((x - center) W_enc + b_enc), the others 0; `dtype` as for `encode_relu`."""
    support = support_topk_bfloat16 if dtype == torch.bfloat16 else support_topk
    return encode_at(x, center, W_enc, b_enc, support(x, center, W_enc, b_enc, k))
