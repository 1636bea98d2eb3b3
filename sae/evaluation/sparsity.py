"""Sparsity metrics: how many features fire, how often each of them does, and how many never do."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from sae.config import Config
from sae.evaluation.accumulators import Sums
from sae.kernels.sparse import SparseFeatures

ULTRA_LOW_DENSITY = 1e-6
LOG10_EDGES = [round(-8 + 0.2 * step, 1) for step in range(41)]


class DensityHistogram(Config):
    """Features by the log10 of their density."""

    log10_edges: list[float] = Field(description="edges of the bins, ascending")
    counts: list[int] = Field(description="features in each bin; a bin holds its lower edge, the last one both")
    never: int = Field(description="features that never fired")


class SparsityFigures(Config):
    """Firing over the whole evaluation set."""

    num_tokens: int = Field(description="tokens measured: every token that is not a special one")
    l0: float = Field(description="mean number of non-zero features per token")
    l1: float = Field(description="mean sum of feature values per token, in the scaled units of the dictionary (x · input_scale)")
    density_histogram: DensityHistogram
    density_resolution: float = Field(description="smallest density that can be seen: 1 / num_tokens")
    silent_fraction: float = Field(description="share of features that fire on none of the tokens; the fewer tokens, the more of them")
    ultra_low_density_fraction: float | None = Field(
        description="share of features that fire, at a density below 1e-6; null below a million tokens, which cannot tell"
    )
    share_above_1_percent: float = Field(description="share of features with a density above 1 %")
    share_above_10_percent: float = Field(description="share of features with a density above 10 %")


@dataclass
class SparsitySums(Sums):
    """Sums behind the figures.

    Attributes:
        tokens: tokens seen.
        fired: int64 `[d_sae]`, tokens on which each feature was not zero.
        value: sum of all feature values.
        fired_sequences: int64 `[d_sae]`, sequences in which each feature was not zero on some token.
    """

    tokens: int
    fired: np.ndarray
    value: float
    fired_sequences: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """Float64 `[d_sae]`: fraction of tokens on which each feature fires."""
        return np.asarray(self.fired / self.tokens)

    def figures(self) -> SparsityFigures:
        """The figures of all tokens summed."""
        density = self.density
        firing = density[density > 0]
        counts, _ = np.histogram(np.log10(firing).clip(LOG10_EDGES[0], LOG10_EDGES[-1]), LOG10_EDGES)
        resolved = self.tokens * ULTRA_LOW_DENSITY > 1
        return SparsityFigures(
            num_tokens=self.tokens,
            l0=float(self.fired.sum() / self.tokens),
            l1=self.value / self.tokens,
            density_histogram=DensityHistogram(log10_edges=LOG10_EDGES, counts=counts.tolist(), never=int((density == 0).sum())),
            density_resolution=1 / self.tokens,
            silent_fraction=float((density == 0).mean()),
            ultra_low_density_fraction=float((firing < ULTRA_LOW_DENSITY).sum() / len(density)) if resolved else None,
            share_above_1_percent=float((density > 0.01).mean()),
            share_above_10_percent=float((density > 0.1).mean()),
        )


def sparsity_sums(features: SparseFeatures, sequences: Int[Tensor, " batch"]) -> SparsitySums:
    """Sums of one batch; values are non-negative, so their sum is the L1 norm.

    Args:
        features: of every token.
        sequences: which sequence of the batch each token belongs to, counted from 0.
    """
    firing = features.values != 0
    feature_ids = features.feature_ids[firing]
    fired = torch.bincount(feature_ids, minlength=features.num_features)
    together = torch.zeros(int(sequences.max()) + 1 if len(sequences) else 0, features.num_features, dtype=torch.bool, device=feature_ids.device)
    together[sequences[features.row_ids[firing]], feature_ids] = True
    return SparsitySums(
        tokens=features.batch,
        fired=fired.cpu().numpy(),
        value=features.values.sum(dtype=torch.float64).item(),
        fired_sequences=together.sum(0).cpu().numpy(),
    )
