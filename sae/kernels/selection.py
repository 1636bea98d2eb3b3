"""Choices among features that go beyond "greater than 0": above a bound, the largest of a whole batch, the largest over all workers.

Each of them reduces to the support of a ReLU: an entry is above a bound where it is above 0 with the bound taken off the bias.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.kernels.candidates import support_relu_bfloat16
from sae.kernels.features import encode_at
from sae.kernels.sparse import ByFeature, Features, SparseFeatures
from sae.kernels.support import DENSE_ABOVE_DENSITY, probe_density, support_relu
from sae.parallel.workers import ALONE, Workers

# The bound is guessed so low that about this many times the wanted entries lie above it.
CANDIDATES_PER_WANTED = 1.5
GUESS_ROWS = 64


def map_values(features: Features, function: Callable[..., Float[Tensor, "..."]], *parameters: Float[Tensor, " d_sae"]) -> Features:
    """function(values, *parameters) element by element, each parameter taken at the value's feature; differentiable, coordinates stay."""
    if not isinstance(features, SparseFeatures):
        return function(features, *parameters)
    at = (parameter.index_select(0, features.feature_ids) for parameter in parameters)
    return features.with_values(function(features.values, *at))


@torch.no_grad()
def keep(features: SparseFeatures, kept: Bool[Tensor, " nnz"]) -> SparseFeatures:
    """The stored coordinates that `kept` marks, and no others (no gradient)."""
    counts = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    pointers = counts[features.row_pointers.long()].int()
    return replace(features, row_pointers=pointers, feature_ids=features.feature_ids[kept], values=features.values[kept].detach(), known_order=None)


def fired(features: Features) -> Features:
    """The same features without stored zeros (no gradient)."""
    return keep(features, features.values != 0) if isinstance(features, SparseFeatures) else features.detach()


def encode_above(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    bound: Float[Tensor, "..."],
    dtype: torch.dtype = torch.float32,
) -> Features:
    """The values z = (x - center) W_enc + b_enc above `bound`, sparse; or all of z, dense, where a probe finds most of them needed anyway.

    `bound` is one number or one per feature, and is taken as a constant; `dtype` is that of the product which finds candidates.
    """
    shifted = (b_enc - bound).detach()
    if probe_density(x, center, W_enc, shifted) > DENSE_ABOVE_DENSITY:
        return torch.addmm(b_enc, x - center, W_enc)
    return encode_at(x, center, W_enc, b_enc, support_above(x, center, W_enc, b_enc, bound, dtype))


@torch.no_grad()
def support_above(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    bound: Float[Tensor, "..."],
    dtype: torch.dtype = torch.float32,
) -> SparseFeatures:
    """The coordinates where z = (x - center) W_enc + b_enc > bound, with the values of z (no gradient)."""
    support = support_relu_bfloat16 if dtype == torch.bfloat16 else support_relu
    found = support(x, center, W_enc, b_enc - bound)
    return found.with_values(found.values + bound.expand(found.num_features).index_select(0, found.feature_ids))


@torch.no_grad()
def support_batch_topk(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    workers: Workers = ALONE,
    dtype: torch.dtype = torch.float32,
) -> tuple[SparseFeatures, Float[Tensor, ""]]:
    """The k · batch largest positive entries of (x - center) W_enc + b_enc, over all rows and features, and the smallest of them.

    Entries equal to the smallest are all kept, so that the choice does not depend on their order. Where the batch or the features are
    spread over workers, the choice is among the entries of all, and each gets its own part of it. Without any positive entry the
    smallest is infinite.
    """
    wanted = k * workers.num_rows(len(x))
    bound = _guess_bound(x, center, W_enc, b_enc, k, workers)
    support = support_above(x, center, W_enc, b_enc, bound, dtype)
    values = _of_all_workers(support.values, workers)
    if len(values) < wanted and bound > 0:  # the guess was too high
        support = support_above(x, center, W_enc, b_enc, torch.zeros_like(bound), dtype)
        values = _of_all_workers(support.values, workers)
    if len(values) == 0:
        return support, values.new_full((), torch.inf)
    smallest = values.min() if len(values) <= wanted else values.kthvalue(len(values) - wanted + 1).values
    return keep(support, support.values >= smallest), smallest


def split_rows(features: SparseFeatures, starts: Int[Tensor, " groups_minus_1"]) -> SparseFeatures:
    """The same coordinates with each row split into one row per group of features, row after row; differentiable.

    Args:
        features: with ids ascending in each row.
        starts: the first feature of every group but the first.
    """
    groups = len(starts) + 1
    rows = features.row_ids.long() * groups + torch.bucketize(features.feature_ids.long(), starts, right=True)
    counts = torch.bincount(rows, minlength=features.batch * groups)
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    by_feature = features.by_feature
    order = ByFeature(by_feature.feature_pointers, rows.int()[by_feature.order], by_feature.order)
    return SparseFeatures(pointers, features.feature_ids, features.values, features.num_features, order)


@torch.no_grad()
def keep_largest_of_row(features: SparseFeatures, k: int, workers: Workers) -> SparseFeatures:
    """The k largest per row over all feature ranks, of at most k that each of them holds; of equal ones, those of lowest feature id.

    Every rank contributes k numbers per row, padded with 0, so that what crosses the wire does not grow with the features.
    """
    rows = features.row_ids.long()
    places = torch.arange(features.nnz, device=rows.device) - features.row_pointers.long()[rows]
    own = features.values.new_zeros(features.batch, k)
    own[rows, places] = features.values
    everyone = workers.gather_features(own)
    order = everyone.sort(dim=1, descending=True, stable=True).indices
    columns = torch.arange(everyone.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, columns)
    return keep(features, ranks[rows, workers.feature_rank * k + places] < k)


def _guess_bound(
    x: Float[Tensor, "batch d_in"],
    center: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    workers: Workers,
) -> Float[Tensor, ""]:
    """A bound, 0 or above, that more than the wanted entries probably reach; the same for all workers."""
    rows = x[:: max(1, len(x) // GUESS_ROWS)]
    pre = torch.addmm(b_enc, rows - center, W_enc).view(-1)
    wanted = math.ceil(CANDIDATES_PER_WANTED * k * len(rows) / workers.feature_size)
    guess = pre.kthvalue(len(pre) - wanted).values.clamp_min(0.0) if wanted < len(pre) else pre.new_zeros(())
    return workers.gather_rows(workers.gather_features(guess.view(1))).min()


def _of_all_workers(values: Float[Tensor, " nnz"], workers: Workers) -> Float[Tensor, " all"]:
    if workers.feature_size > 1:  # what is gathered over features must be of one size
        longest = int(workers.gather_features(torch.tensor([len(values)], device=values.device)).max())
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        values = workers.gather_features(padded)
        values = values[values > 0]
    return workers.gather_rows(values)
