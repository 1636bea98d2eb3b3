"""Reconstruction and sparsity of a dictionary on vectors that are at hand."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.base import Dictionary
from sae.errors import InputError, WidthError
from sae.evaluation.reconstruction import ReconstructionFigures, ReconstructionSums, reconstruction_sums
from sae.evaluation.sparsity import SparsityFigures, SparsitySums, sparsity_sums

BATCH_VECTORS = 4096


@dataclass(frozen=True)
class Measurement:
    """Figures of a dictionary on some vectors.

    Attributes:
        reconstruction: how close the reconstructions come.
        sparsity: how many features fire, and how often each.
        density: share of the vectors on which each feature fires.
    """

    reconstruction: ReconstructionFigures
    sparsity: SparsityFigures
    density: Float[np.ndarray, " d_sae"]

    @property
    def fvu(self) -> float | None:
        """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖²; None where the vectors do not vary."""
        return self.reconstruction.fvu

    @property
    def l0(self) -> float:
        """Mean number of features that fire for a vector."""
        return self.sparsity.l0

    def __repr__(self) -> str:
        fvu = "undefined" if self.fvu is None else f"{self.fvu:.4f}"
        return f"Measurement(fvu={fvu}, l0={self.l0:.2f}, silent={self.sparsity.silent_fraction:.1%} of {len(self.density)} features)"


@torch.no_grad()
def measure(dictionary: Dictionary, vectors: Float[Tensor, "vectors d_in"] | Float[np.ndarray, "vectors d_in"]) -> Measurement:
    """Measure a dictionary on vectors, which should not be those that it was trained on.

    Args:
        dictionary: not a transcoder, whose target is another activation.
        vectors: raw activations; rows, of any float dtype.

    Raises:
        WidthError: the vectors are not of shape `[vectors, d_in]`, or the dictionary is a transcoder.
        InputError: there is no vector.
    """
    if dictionary.is_transcoder or vectors.ndim != 2 or vectors.shape[1] != dictionary.d_in:
        wanted = "an autoencoder, and this is a transcoder" if dictionary.is_transcoder else f"vectors of shape [vectors, {dictionary.d_in}]"
        raise WidthError(f"measure takes {wanted}; found vectors of shape {list(vectors.shape)}")
    if len(vectors) == 0:
        raise InputError("there is no vector to measure on: give some")
    where = dictionary.b_dec.device
    parts = (torch.as_tensor(vectors[start : start + BATCH_VECTORS]).to(where).float() for start in range(0, len(vectors), BATCH_VECTORS))
    first = next(parts)
    shift = first.mean(0)
    reconstruction, sparsity = _sums(dictionary, first, shift)
    for part in parts:
        more_reconstruction, more_sparsity = _sums(dictionary, part, shift)
        reconstruction, sparsity = reconstruction.merge(more_reconstruction), sparsity.merge(more_sparsity)
    return Measurement(reconstruction.figures(), sparsity.figures(), sparsity.density)


def _sums(dictionary: Dictionary, x: Float[Tensor, "batch d_in"], shift: Float[Tensor, " d_in"]) -> tuple[ReconstructionSums, SparsitySums]:
    features = dictionary.encode_sparse(x)
    alone = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # vectors at hand belong to no sequence
    return reconstruction_sums(x, dictionary.decode(features), shift), sparsity_sums(features, alone)
