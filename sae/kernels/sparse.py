"""One sparse type for features, and its transposition."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class ByFeature:
    """The same fired coordinates ordered by feature, then by row.

    Entries of feature j lie at `feature_pointers[j] : feature_pointers[j + 1]`; `order` says where each stood in row order.
    """

    feature_pointers: Int[Tensor, " d_sae_plus_1"]
    row_ids: Int[Tensor, " nnz"]
    order: Int[Tensor, " nnz"]


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """The features that fired, row by row (compressed sparse rows).

    Row i fired features `feature_ids[row_pointers[i] : row_pointers[i + 1]]`, ascending, with `values` at the same places; all
    other features are 0. Pointers and ids are int32: they are read many times per step, and half the bytes are half the time.
    """

    row_pointers: Int[Tensor, " batch_plus_1"]
    feature_ids: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    num_features: int
    known_order: ByFeature | None = None

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.row_pointers) - 1

    @property
    def nnz(self) -> int:
        """Number of stored coordinates."""
        return len(self.feature_ids)

    @property
    def l0(self) -> float:
        """Mean number of stored features per row."""
        return self.nnz / max(self.batch, 1)

    @property
    def row_ids(self) -> Int[Tensor, " nnz"]:
        """The row of every stored coordinate."""
        return row_ids_of(self.row_pointers, self.nnz)

    @property
    def firings(self) -> Int[Tensor, " d_sae"]:
        """In how many rows each feature fired."""
        fired = self.values != 0
        ids = self.feature_ids if bool(fired.all()) else self.feature_ids[fired]  # usually all of them did, and indexing is expensive
        return torch.bincount(ids, minlength=self.num_features)

    @property
    def active(self) -> Bool[Tensor, " d_sae"]:
        """Mask of the features that fired in any row."""
        return self.firings > 0

    @cached_property
    def by_feature(self) -> ByFeature:
        """The coordinates ordered by feature; features that share their coordinates share it."""
        return self.known_order or order_by_feature(self)

    def with_values(self, values: Float[Tensor, " nnz"]) -> Self:
        """The same coordinates with other values."""
        return replace(self, values=values, known_order=self.by_feature if values.requires_grad else None)

    def to_dense(self) -> Float[Tensor, "batch d_sae"]:
        """The same features with their zeros; differentiable with respect to `values`."""
        dense = self.values.new_zeros(self.batch, self.num_features)
        return dense.index_put((self.row_ids, self.feature_ids), self.values)

    def detach(self) -> Self:
        """The same features outside the autograd graph."""
        return replace(self, values=self.values.detach())

    @classmethod
    def from_dense(cls, features: Float[Tensor, "batch d_sae"]) -> Self:
        """Keep the non-zero coordinates; differentiable with respect to `features`."""
        batch, num_features = features.shape
        flat = flat_nonzero(features.detach() != 0)
        return cls(row_pointers_of(flat, batch, num_features), (flat % num_features).int(), features.reshape(-1)[flat], num_features)


Features = SparseFeatures | Float[Tensor, "batch d_sae"]


def as_sparse(features: Features) -> SparseFeatures:
    """Features as the sparse type, whichever they were."""
    return features if isinstance(features, SparseFeatures) else SparseFeatures.from_dense(features)


def as_dense(features: Features) -> Float[Tensor, "batch d_sae"]:
    """Features with their zeros, whichever they were."""
    return features.to_dense() if isinstance(features, SparseFeatures) else features


def firings_of(features: Features) -> Int[Tensor, " d_sae"]:
    """In how many rows each feature fired, whichever way the features are held."""
    return features.firings if isinstance(features, SparseFeatures) else (features != 0).sum(0)


def feature_sums(features: Features) -> Float[Tensor, " batch"]:
    """Sum of each row's features; for features, which are never negative, their L1 norm. Differentiable."""
    if not isinstance(features, SparseFeatures):
        return features.sum(1)
    return RowSums.apply(features.values, features.row_pointers)


class RowSums(torch.autograd.Function):
    """Sums over each row's stored values; every value of a row has the row's gradient."""

    @staticmethod
    def forward(ctx, values, row_pointers):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        ctx.counts, ctx.nnz = row_pointers.diff(), len(values)
        if ctx.nnz == 0:  # which segment_reduce refuses
            return values.new_zeros(len(ctx.counts))
        return torch.segment_reduce(values, "sum", offsets=row_pointers.long())  # index_add took four times as long

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        return gradient.repeat_interleave(ctx.counts, output_size=ctx.nnz), None


def flat_nonzero(mask: Bool[Tensor, "batch d_sae"]) -> Int[Tensor, " nnz"]:
    """Positions of the true entries, counted row by row, ascending."""
    if mask.is_cuda:
        return mask.view(-1).nonzero().view(-1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # on mostly-false masks three times as fast as Tensor.nonzero


def flat_positive(pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " nnz"]:
    """Positions of the entries above 0, counted row by row, ascending; of the numbers, NaN counts as anything."""
    if pre.is_cuda:
        return flat_nonzero(pre > 0)
    # numpy compares faster than torch, and knows no bfloat16: such a number is above 0 where its bits, read as an integer, are.
    comparable = pre.view(torch.int16) if pre.dtype == torch.bfloat16 else pre
    return torch.from_numpy(np.flatnonzero(comparable.numpy() > 0))


def flat_at_least(pre: Float[Tensor, "rows d_sae"], bound: Float[Tensor, "rows 1"]) -> Int[Tensor, " nnz"]:
    """Positions of the entries that reach the bound of their row, counted row by row, ascending."""
    if pre.is_cuda or pre.dtype != torch.bfloat16 or not bool((bound > 0).all()):
        return flat_nonzero(pre >= bound)
    # As in `flat_positive`; bits read as integers are in the order of the numbers where one side is above 0.
    return torch.from_numpy(np.flatnonzero(pre.view(torch.int16).numpy() >= bound.view(torch.int16).numpy()))


def row_pointers_of(flat: Int[Tensor, " nnz"], batch: int, num_features: int) -> Int[Tensor, " batch_plus_1"]:
    """Where each row begins among ascending flat positions."""
    starts = torch.arange(batch + 1, device=flat.device) * num_features
    return torch.searchsorted(flat, starts, out_int32=True)


def row_ids_of(row_pointers: Int[Tensor, " batch_plus_1"], nnz: int) -> Int[Tensor, " nnz"]:
    """The row of every stored coordinate."""
    rows = torch.arange(len(row_pointers) - 1, dtype=torch.int32, device=row_pointers.device)
    return rows.repeat_interleave(row_pointers.diff(), output_size=nnz)


def coordinates_at(flat: Int[Tensor, " nnz"], rows: int, width: int) -> tuple[Int[Tensor, " rows_plus_1"], Int[Tensor, " nnz"]]:
    """Row pointers and feature ids of the entries at ascending flat positions."""
    return row_pointers_of(flat, rows, width), (flat % width).int()


def entries_at(
    pre: Float[Tensor, "rows d_sae"], flat: Int[Tensor, " nnz"]
) -> tuple[Int[Tensor, " rows_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Row pointers, feature ids and values of the entries at ascending flat positions."""
    values = pre.reshape(-1).index_select(0, flat)  # ten times as fast as indexing
    return *coordinates_at(flat, *pre.shape), values


def order_by_feature(features: SparseFeatures) -> ByFeature:
    """Transpose the coordinates; rows stay ascending within a feature, so that sums over them have one order."""
    if features.feature_ids.is_cuda:
        ids, order = features.feature_ids.sort(stable=True)
        columns = torch.arange(features.num_features + 1, dtype=ids.dtype, device=ids.device)
        return ByFeature(torch.searchsorted(ids, columns, out_int32=True), features.row_ids[order], order)
    places = np.arange(features.nnz, dtype=np.int32)
    matrix = csr_matrix((places, features.feature_ids.numpy(), features.row_pointers.numpy()), shape=(features.batch, features.num_features)).tocsc()
    return ByFeature(torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices), torch.from_numpy(matrix.data))
