"""Metrics of the reconstruction: distance, direction and length."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.config import Config
from sae.evaluation.accumulators import Sums
from sae.shares import ratio

SMALLEST_NORM = 1e-4  # below it SAEBench takes a norm of 1 for its ratio


class ReconstructionFigures(Config):
    """Reconstruction over the whole evaluation set; null where a figure is not defined (activations that never vary)."""

    fvu: float | None = Field(description="fraction of variance unexplained: sum‖x − x̂‖² / sum‖x − mean‖²")
    explained_variance: float | None = Field(description="1 − FVU")
    mean_squared_error: float = Field(description="mean of ‖x − x̂‖² per token, in squared units of the activation, summed over d_in")
    cosine: float = Field(description="mean cosine of activation and reconstruction; a vector of zeros counts as 0")
    norm_ratio: float | None = Field(description="sqrt(sum‖x̂‖² / sum‖x‖²); below 1 the reconstruction is shrunken")
    norm: float | None = Field(None, description="mean of ‖x‖, SAEBench's l2_norm_in")
    reconstruction_norm: float | None = Field(None, description="mean of ‖x̂‖, SAEBench's l2_norm_out")
    norm_ratio_per_token: float | None = Field(None, description="mean of ‖x̂‖ / ‖x‖, SAEBench's l2_ratio; where ‖x‖ < 1e-4 it counts as ‖x̂‖")
    reconstruction_bias: float | None = Field(
        None, description="mean‖x̂‖² / mean(x · x̂), SAEBench's relative_reconstruction_bias; 1 is unbiased (arXiv 2404.16014, equation 10)"
    )
    explained_variance_per_token: float | None = Field(
        None,
        description="1 − mean(‖x − x̂‖² / ‖x − mean‖²) with the store's mean, as SAELens' explained_variance_legacy; tokens near the mean weigh "
        "most, use explained_variance",
    )


@dataclass
class ReconstructionSums(Sums):
    """Sums behind the figures. `shifted` means: less a fixed vector near the mean, without which the variance would drown in rounding.

    Attributes:
        tokens: activations seen.
        shifted: float64 `[d_in]`, sum of shifted activations.
        shifted_square: sum of their squared norms.
        squared_error: sum of ‖x − x̂‖².
        square: sum of ‖x‖².
        reconstruction_square: sum of ‖x̂‖².
        cosine: sum of cos(x, x̂).
        norm: sum of ‖x‖.
        reconstruction_norm: sum of ‖x̂‖.
        norm_ratio: sum of ‖x̂‖ / ‖x‖.
        product: sum of x · x̂.
        error_per_deviation: sum of ‖x − x̂‖² / ‖x − shift‖².
    """

    tokens: int
    shifted: np.ndarray
    shifted_square: float
    squared_error: float
    square: float
    reconstruction_square: float
    cosine: float
    norm: float
    reconstruction_norm: float
    norm_ratio: float
    product: float
    error_per_deviation: float

    def figures(self) -> ReconstructionFigures:
        """The figures of all tokens summed."""
        variance = max(self.shifted_square - float(self.shifted @ self.shifted) / self.tokens, 0.0)
        fvu = ratio(self.squared_error, variance)
        norms = ratio(self.reconstruction_square, self.square)
        return ReconstructionFigures(
            fvu=fvu,
            explained_variance=None if fvu is None else 1 - fvu,
            mean_squared_error=self.squared_error / self.tokens,
            cosine=self.cosine / self.tokens,
            norm_ratio=None if norms is None else norms**0.5,
            norm=self.norm / self.tokens,
            reconstruction_norm=self.reconstruction_norm / self.tokens,
            norm_ratio_per_token=self.norm_ratio / self.tokens,
            reconstruction_bias=ratio(self.reconstruction_square, self.product),
            explained_variance_per_token=1 - self.error_per_deviation / self.tokens if np.isfinite(self.error_per_deviation) else None,
        )


def reconstruction_sums(
    activations: Float[Tensor, "tokens d_in"], reconstructions: Float[Tensor, "tokens d_in"], shift: Float[Tensor, " d_in"]
) -> ReconstructionSums:
    """Sums of one batch.

    `FVU = sum‖x − x̂‖² / sum‖x − x̄‖²`, where `sum‖x − x̄‖² = sum‖x − s‖² − ‖sum(x − s)‖² / n` for any shift `s`: so the mean `x̄` is that
    of the whole evaluation set, however it was cut into batches.

    Args:
        activations: raw activations x.
        reconstructions: x̂, in the same units.
        shift: s, the same for all batches and near the mean of x.
    """
    shifted = activations - shift
    errors, deviations = (activations - reconstructions).square().sum(-1), shifted.square().sum(-1)
    norms, reconstruction_norms = (torch.linalg.vector_norm(vectors, dim=-1) for vectors in (activations, reconstructions))
    ratios = reconstruction_norms / torch.where(norms < SMALLEST_NORM, 1.0, norms)
    return ReconstructionSums(
        tokens=len(activations),
        shifted=shifted.sum(0, dtype=torch.float64).cpu().numpy(),
        shifted_square=_sum(deviations),
        squared_error=_sum(errors),
        square=_sum(activations.square().sum(-1)),
        reconstruction_square=_sum(reconstructions.square().sum(-1)),
        cosine=_sum(torch.cosine_similarity(activations, reconstructions, dim=-1)),
        norm=_sum(norms),
        reconstruction_norm=_sum(reconstruction_norms),
        norm_ratio=_sum(ratios),
        product=_sum(torch.linalg.vecdot(activations, reconstructions)),
        error_per_deviation=_sum(errors / deviations),
    )


def _sum(values: Float[Tensor, " tokens"]) -> float:
    return values.sum(dtype=torch.float64).item()
