"""Each loss formula once, with its source.

Two conventions must be known to read a coefficient: whether the squared error is a mean or a sum over the `d_in` elements, and
whether the sparsity term is a mean or a sum over features. Each function says its own.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae.kernels.selection import map_values
from sae.kernels.sparse import Features, feature_sums
from sae.parallel.workers import ALONE, Workers


class SquaredErrors(torch.autograd.Function):
    """Σ_j (x_j − x̂_j)² of each vector: one pass over memory forward and one backward, where autograd's own formulas take three each."""

    @staticmethod
    def forward(ctx, x, reconstruction):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        error = reconstruction - x
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error, dim=1).square()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, D102
        [error] = ctx.saved_tensors
        found = error * (2 * gradient)[:, None]
        return -found if ctx.needs_input_grad[0] else None, found


def mean_squared_errors(x: Float[Tensor, "batch d_in"], reconstruction: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
    """(1/d_in) Σ_j (x_j − x̂_j)² of each vector: a mean over its elements.

    Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders".
    """
    return squared_errors(x, reconstruction) / x.shape[1]


def squared_errors(x: Float[Tensor, "batch d_in"], reconstruction: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
    """Σ_j (x_j − x̂_j)² of each vector: a sum over its elements.

    Reference: Conerly et al. 2024, Transformer Circuits, Circuits Updates April 2024, "Update on how we train SAEs".
    """
    return SquaredErrors.apply(x, reconstruction)


def l1_norms(features: Features) -> Float[Tensor, " batch"]:
    """Σ_i f_i of each vector for f ≥ 0: a sum over features.

    Reference: Bricken et al. 2023, Towards Monosemanticity, appendix "Sparse Autoencoders".
    """
    return feature_sums(features)


def weighted_l1_norms(features: Features, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, " batch"]:
    """Σ_i f_i ‖W_dec,i‖ of each vector for f ≥ 0: a sum over features of what each contributes, whatever the length of its direction.

    Reference: Conerly et al. 2024, Transformer Circuits, Circuits Updates April 2024, "Update on how we train SAEs".
    """
    norms = torch.linalg.vector_norm(W_dec, dim=1)
    return feature_sums(map_values(features, torch.mul, norms))


def power_norms(features: Features, p: float) -> Float[Tensor, " batch"]:
    """Σ_i f_i^p over the features of each vector that fired, f ≥ 0 and 0 < p ≤ 1: the norm L_p to its p-th power.

    A feature that did not fire has no gradient, where the formula's would be infinite.

    Reference: Karvonen et al. 2024 (arXiv 2408.00113).
    """
    return feature_sums(map_values(features, lambda f: torch.where(f > 0, f, 1.0).pow(p) * (f > 0)))


def normalized_squared_error(
    x: Float[Tensor, "batch d_in"], reconstruction: Float[Tensor, "batch d_in"], workers: Workers = ALONE
) -> Float[Tensor, ""]:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², both sums over the batch and x̄ its mean: 1 for the best constant guess, whatever the units.

    A batch without variance has nothing to explain: 0, never NaN. Where the batch is spread over workers, the first sum is over the
    rows of this one and the second over all, so that the workers' results add up to the loss.

    Reference: Gao et al. 2024 (arXiv 2406.04093), "normalized MSE"; their mean and variance are of a large sample,
        here of the batch.
    """
    mean = workers.sum_rows(x.sum(0)) / workers.num_rows(len(x))
    variance = workers.sum_rows((x - mean).square().sum())
    return torch.where(variance > 0, (x - reconstruction).square().sum() / variance.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def auxiliary_squared_error(
    error: Float[Tensor, "batch d_in"], prediction: Float[Tensor, "batch d_in"], workers: Workers = ALONE
) -> Float[Tensor, ""]:
    """Normalised squared error of predicting the main reconstruction's error e = x − x̂ from dead features; `error` is a constant.

    Where it is NaN or infinite it is a constant 0, without gradient: dead features may hold anything, and must not end a healthy run.

    Reference: Gao et al. 2024 (arXiv 2406.04093), "AuxK".
    """
    loss = normalized_squared_error(error.detach(), prediction, workers)
    healthy = bool(torch.isfinite(workers.sum_rows(loss.detach())))  # asked of all, or workers would take steps of different losses
    return loss if healthy else torch.zeros_like(loss)  # 0 · NaN is NaN, so the gradient must not exist at all
