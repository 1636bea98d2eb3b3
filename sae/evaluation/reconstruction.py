"""How close the reconstruction comes to the activation."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.config import Config
from sae.evaluation.accumulators import Sums, ratio


class ReconstructionFigures(Config):
    """Reconstruction over the whole evaluation set; null where a figure is not defined (activations that never vary)."""

    fvu: float | None = Field(description="fraction of variance unexplained: sum‖x − x̂‖² / sum‖x − mean‖²")
    explained_variance: float | None = Field(description="1 − FVU")
    mean_squared_error: float = Field(description="mean of ‖x − x̂‖² per token, in squared units of the activation, summed over d_in")
    cosine: float = Field(description="mean cosine of activation and reconstruction; a vector of zeros counts as 0")
    norm_ratio: float | None = Field(description="sqrt(sum‖x̂‖² / sum‖x‖²); below 1 the reconstruction is shrunken")


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
    """

    tokens: int
    shifted: np.ndarray
    shifted_square: float
    squared_error: float
    square: float
    reconstruction_square: float
    cosine: float

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
    return ReconstructionSums(
        tokens=len(activations),
        shifted=shifted.sum(0, dtype=torch.float64).cpu().numpy(),
        shifted_square=_sum_of_squares(shifted),
        squared_error=_sum_of_squares(activations - reconstructions),
        square=_sum_of_squares(activations),
        reconstruction_square=_sum_of_squares(reconstructions),
        cosine=torch.cosine_similarity(activations, reconstructions, dim=-1).sum(dtype=torch.float64).item(),
    )


def _sum_of_squares(vectors: Float[Tensor, "tokens d_in"]) -> float:
    return vectors.square().sum(-1).sum(dtype=torch.float64).item()
