"""Choices among features that reach beyond one row or one process: what fired, narrowed down."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from sae.kernels.sparse import SparseFeatures
from sae.parallel import Workers


@torch.no_grad()
def keep(features: SparseFeatures, kept: Bool[Tensor, " nnz"]) -> SparseFeatures:
    """The stored coordinates that `kept` marks, and no others (no gradient)."""
    counts = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    pointers = counts[features.row_pointers.long()].int()
    return replace(features, row_pointers=pointers, feature_ids=features.feature_ids[kept], values=features.values[kept].detach(), known_order=None)


@torch.no_grad()
def keep_largest_of_row(features: SparseFeatures, k: int, workers: Workers) -> SparseFeatures:
    """The k largest per row among all feature ranks, of at most k that each of them holds; of equal ones, those of lowest feature id.

    Every rank contributes k numbers per row, padded with 0, so that what crosses the wire does not grow with the features.
    """
    if workers.feature_size == 1:
        return features
    rows = features.row_ids.long()
    places = torch.arange(features.nnz, device=rows.device) - features.row_pointers.long()[rows]
    own = features.values.new_zeros(features.batch, k)
    own[rows, places] = features.values
    everyone = workers.gather_features(own)
    order = everyone.sort(dim=1, descending=True, stable=True).indices
    columns = torch.arange(everyone.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, columns)
    return keep(features, ranks[rows, workers.feature_rank * k + places] < k)
